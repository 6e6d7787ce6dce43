"""Follows a job and obeys Ctrl-C. The only part of the command line with a clock."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine
from typing import Any

from hma.cli.fold import fold
from hma.cli.presenting import Presenter
from hma.cli.view_state import JobView
from hma.client import AsyncClient
from hma.errors import HmaError, PreconditionFailed
from hma.v1 import job_pb2

TICK = 0.125
"""Seconds between two drawings."""

STOP_HINT = "Ctrl-C: answer now with what is there"
LEAVE_HINT = "Ctrl-C: stop watching; the job goes on"


class LeftRunningError(Exception):
    """The user stopped watching; the job goes on."""


class Follower:
    """Follows one job until it has ended.

    The first Ctrl-C asks for the answer now, the second cancels the job, the third
    leaves it alone; a follower that may not stop the job leaves at the first.

    Args:
        client: Where the job is.
        job_id: The job.
        presenter: Shows it.
        may_stop: Whether Ctrl-C is for the job or only for the watching.
    """

    def __init__(
        self, client: AsyncClient, job_id: str, presenter: Presenter, *, may_stop: bool
    ) -> None:
        self._client = client
        self._presenter = presenter
        self._may_stop = may_stop
        self._view = JobView(job_id=job_id)
        self._heard = time.monotonic()
        self._presses = 0
        self._left = asyncio.Event()
        self._commands: set[asyncio.Task[None]] = set()

    async def follow(self) -> job_pb2.Job:
        """Shows the job until its end.

        Returns:
            The ended job, with its ledger's rows.

        Raises:
            LeftRunningError: The user left first.
            HmaError: The job cannot be watched.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._pressed)
        watching = asyncio.create_task(self._watch())
        leaving = asyncio.create_task(self._left.wait())
        try:
            with self._presenter:
                while not watching.done() and not leaving.done():
                    self._presenter.tick(self._view, self._now())
                    await asyncio.wait(
                        {watching, leaving}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED
                    )
            if not watching.done():
                raise LeftRunningError
            watching.result()
            return await self._client.get(self._view.job_id)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            owned = [watching, leaving, *self._commands]
            for task in owned:
                task.cancel()
            await asyncio.gather(*owned, return_exceptions=True)

    async def _watch(self) -> None:
        async for update in self._client.watch(self._view.job_id):
            self._view = fold(self._view, update)
            self._heard = time.monotonic()
            self._presenter.update(self._view, update)

    def _now(self) -> float:
        """Database time: the latest that was heard of, and what has passed since."""
        if not self._view.now:
            return 0.0
        return self._view.now + (time.monotonic() - self._heard)

    def _pressed(self) -> None:
        self._presses += 1
        if not self._may_stop or self._presses > 2:
            self._left.set()
        elif self._presses == 1:
            self._presenter.note("answering with what is there; Ctrl-C again: cancel")
            self._command(self._client.interrupt(self._view.job_id, "Ctrl-C"))
        else:
            self._presenter.note("cancelling; Ctrl-C again: leave it alone")
            self._command(self._client.cancel(self._view.job_id, "Ctrl-C"))

    def _command(self, call: Coroutine[Any, Any, job_pb2.Job]) -> None:
        task = asyncio.create_task(self._obey(call))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _obey(self, call: Coroutine[Any, Any, job_pb2.Job]) -> None:
        try:
            await call
        except PreconditionFailed:
            pass  # It ended first, which is what was wanted.
        except HmaError as error:
            self._presenter.note(error.message)
