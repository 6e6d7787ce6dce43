"""Starts, watches and stops the parts of the local stack.

mirakuru runs the processes: it starts each in a session of its own, stops it by signal,
kills what does not stop, and finds children that a part has left. What it lacks is added
here: several parts at once, logs in files, and an end even when this process is killed.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Self

from mirakuru import SimpleExecutor
from mirakuru.base import cleanup_subprocesses
from mirakuru.exceptions import ProcessFinishedWithError

from hma.errors import HmaError, SettingsError
from hma.local.access import make_first_key, make_internal_key
from hma.local.gateway import write_configuration
from hma.local.parts import Part, parts
from hma.local.ports import check_ports
from hma.local.settings import StackSettings
from hma.local.tether import tethered

_POLL_S = 0.1
_TAIL_LINES = 30


class PartFailed(HmaError):
    """A part of the stack ended, or never became ready.

    Attributes:
        part: Which.
    """

    reason = "PART_FAILED"

    def __init__(self, part: Part, what: str) -> None:
        super().__init__(f"{part.name} {what}")
        self.part = part

    def log_tail(self) -> list[str]:
        """The last lines of the part's log."""
        try:
            return self.part.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            return []


class Interrupted(HmaError):
    """Somebody asked the stack to end.

    Attributes:
        number: The signal.
    """

    reason = "INTERRUPTED"

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class Stack:
    """The local stack, as a context: inside it every part is ready.

    Args:
        settings: Ports, with no zeros left.
        environ: What the parts inherit.
        on_ready: Told of each part that has become ready, and of the seconds since start.
        on_lost: Told of a replica that has ended while another goes on, and how.
    """

    def __init__(
        self,
        settings: StackSettings,
        environ: Mapping[str, str] = os.environ,
        on_ready: Callable[[Part, float], None] = lambda part, seconds: None,
        on_lost: Callable[[Part, str], None] = lambda part, how: None,
    ) -> None:
        self.parts = parts(settings, environ)
        self._environ = environ
        self._interrupted_by = 0
        self._stopping = False
        self._ready = False
        self._settings = settings
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._running: list[tuple[Part, SimpleExecutor]] = []
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Starts all parts and waits until each is ready.

        Raises:
            SettingsError: A port is taken, or another stack uses the data directory.
            PartFailed: A part ended or was not ready in time. All others are stopped.
            Interrupted: `interrupt` was called meanwhile.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops all parts."""
        self.stop()

    def check(self) -> None:
        """To be called several times a second: finds out whether all is still well.

        Raises:
            Interrupted: `interrupt` was called.
            PartFailed: A part has ended, and nothing takes its place.
        """
        if self._interrupted_by:
            raise Interrupted(self._interrupted_by)
        for part, executor in list(self._running):
            code = executor.process.poll() if executor.process else None
            if code is None:
                continue
            left = [each for each, _ in self._running if each.replicated and each is not part]
            if not part.replicated or not left or not self._ready:
                raise PartFailed(part, f"ended {_how(code)}")
            self._running.remove((part, executor))
            self._on_lost(part, _how(code))

    def interrupt(self, number: int) -> None:
        """From a signal handler: lets the next `check` raise; a second time, kills.

        A handler must not raise by itself: raised inside a callback of an event loop, the
        exception would be logged there and forgotten.
        """
        if self._stopping or self._interrupted_by:
            for _, executor in self._running:
                if executor.process is not None and executor.process.poll() is None:
                    os.killpg(executor.process.pid, signal.SIGKILL)
        self._interrupted_by = number

    def stop(self) -> None:
        """Stops every part, clients before servers; kills what does not stop in time."""
        self._stopping = True
        waves = groupby(sorted(self._running, key=lambda each: each[0].wave), _wave)
        for _, wave in waves:
            executors = [executor for _, executor in wave]
            with ThreadPoolExecutor(len(executors)) as pool:
                list(pool.map(_stop, executors))
        self._running.clear()
        self._held.close()

    def _start(self) -> None:
        # At exit mirakuru kills every process whose mark has this process's number in it
        # somewhere: parts of another stack may. Parts are tied to this process instead.
        atexit.unregister(cleanup_subprocesses)
        _lock(self._settings.data, self._held)
        check_ports(self._settings)
        if self._settings.access.required:
            make_internal_key(self._settings)
        write_configuration(self._settings)
        start = time.monotonic()
        # All at once: most of the time is Python's imports, and none needs another to
        # start, only to be ready.
        for part in self.parts:
            self._running.append((part, self._launch(part)))
        waiting = list(self.parts)
        while waiting:
            for part in list(waiting):
                self.check()
                if part.ready():
                    waiting.remove(part)
                    self._on_ready(part, time.monotonic() - start)
            if waiting and time.monotonic() - start > self._settings.start_timeout:
                raise PartFailed(
                    waiting[0],
                    f"was not ready within {self._settings.start_timeout:g} s "
                    "(HMA_LOCAL_START_TIMEOUT)",
                )
            time.sleep(_POLL_S)
        if self._settings.access.required:
            self._make_first_key()
        self._ready = True

    def _make_first_key(self) -> None:
        try:
            make_first_key(self._settings, self._environ)
        except HmaError as error:
            part = next(part for part in self.parts if part.name == "meta-agent")
            raise PartFailed(part, f"did not make the first key: {error.message}") from error

    def _launch(self, part: Part) -> SimpleExecutor:
        part.log.parent.mkdir(parents=True, exist_ok=True)
        output = self._held.enter_context(part.log.open("w"))
        executor = SimpleExecutor(
            tethered(part.command, part.orphan_signal),
            timeout=self._settings.stop_timeout,
            stop_signal=part.stop_signal,
            envvars=dict(part.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        return executor.start()


def _wave(entry: tuple[Part, SimpleExecutor]) -> int:
    return entry[0].wave


def _stop(executor: SimpleExecutor) -> None:
    try:
        executor.stop()
    except ProcessFinishedWithError:
        # It ended, if not in good order; its log says why.
        return


def _how(code: int) -> str:
    if code < 0:
        return f"by signal {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _lock(data: Path, held: ExitStack) -> None:
    """Keeps other stacks off `data`. The kernel lets go whenever this process ends."""
    data.mkdir(parents=True, exist_ok=True)
    directory = os.open(data, os.O_RDONLY)
    held.callback(os.close, directory)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SettingsError(
            f"another stack already runs on {data}: stop it, or set HMA_DATA_DIR and "
            "the ports to run a second one"
        ) from error
