"""Three ways to show a job while it runs: live, as lines, as JSON."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import click
from rich.console import Console
from rich.live import Live

from hma.cli.lines import line
from hma.cli.live import render
from hma.cli.options import Output
from hma.cli.printing import console, json_line, show
from hma.cli.report import report
from hma.cli.view_state import JobView
from hma.cli.wording import clean
from hma.v1 import job_pb2, meta_agent_pb2


class Presenter(Protocol):
    """Shows a job; a context manager around the whole of it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def update(self, view: JobView, update: meta_agent_pb2.WatchJobResponse) -> None:
        """Something happened; `view` includes it."""

    def tick(self, view: JobView, now: float) -> None:
        """A moment has passed; `now` is database time."""

    def note(self, text: str) -> None:
        """Something to say that is not the job's."""


class _Plain:
    """What needs neither setting up nor a clock."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def tick(self, view: JobView, now: float) -> None:
        """Time alone changes nothing here."""

    def note(self, text: str) -> None:
        """To stderr, so that stdout is the job's alone."""
        click.echo(f"hma: {text}", err=True)


class JsonPresenter(_Plain):
    """Every update as a line of JSON."""

    def update(self, view: JobView, update: meta_agent_pb2.WatchJobResponse) -> None:
        """Prints it."""
        json_line(update)


class LinesPresenter(_Plain):
    """A line of text for what matters."""

    def update(self, view: JobView, update: meta_agent_pb2.WatchJobResponse) -> None:
        """Prints a line, when there is something to say."""
        said = line(view, update)
        if said is not None:
            click.echo(said)


class LivePresenter:
    """The live view. It is gone when the job has ended; the report follows.

    Args:
        console: A terminal.
        hint: What Ctrl-C does.
    """

    def __init__(self, console: Console, hint: str) -> None:
        self._console = console
        self._hint = hint
        self._live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, view: JobView, update: meta_agent_pb2.WatchJobResponse) -> None:
        """Drawing is for `tick`: however fast updates come, the screen has its pace."""

    def tick(self, view: JobView, now: float) -> None:
        """Draws."""
        size = self._console.size
        drawn = render(view, now, size.width, size.height - 1, self._hint)
        self._live.update(drawn, refresh=True)

    def note(self, text: str) -> None:
        """In the place of the hint."""
        self._hint = clean(text)


class Showing:
    """How a job is shown on this stdout, while it runs and when it has ended.

    Args:
        output: "text" or "json".
        hint: What Ctrl-C does, for the live view.
    """

    def __init__(self, output: Output, hint: str) -> None:
        self._console = console()
        self._output = output
        self.presenter: Presenter
        if output == "json":
            self.presenter = JsonPresenter()
        elif self._console.is_terminal:
            self.presenter = LivePresenter(self._console, hint)
        else:
            self.presenter = LinesPresenter()

    def ended(self, job: job_pb2.Job) -> None:
        """Prints the ended job."""
        if self._output == "json":
            json_line(job, wrap="job")
        else:
            show(report(job, markdown=self._console.is_terminal), self._console)
