"""The open streams of one job: what the state wants, carried out; what comes back, kept.

Effects are not stored. After every commit `carry_out` compares the attempts that the
state has open with the streams that are there, and opens, grants, stops, acknowledges
what differs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import grpc

from hma.rpc import attempt_stream
from hma.rpc.attempt_stream import AttemptStream
from hma.v1 import analyst_pb2, attempt_pb2, common_pb2, job_pb2, worker_pb2
from services.meta_agent.deciding.dispatching import ready_tasks
from services.meta_agent.deciding.observed import (
    Broken,
    Ended,
    Intended,
    Observed,
    Planned,
    Refused,
)
from services.meta_agent.deciding.receipt import ledger_of
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.driving.frames import Start, start_frame
from services.meta_agent.job.figures import task_name
from services.meta_agent.job.state import AttemptFold, AttemptKey, AttemptStatus, JobFold
from services.meta_agent.job.times import timestamp
from services.meta_agent.store.clock import Clock

_log = logging.getLogger(__name__)

SHOWN_TEXT = 4000
"""Characters of an attempt's output that a snapshot carries: the latest."""

SHOWN_ATTEMPTS = 64
"""Attempts that a snapshot carries at most."""

CLOSING = 2.0
"""Seconds that acknowledged streams may take to close by themselves."""


@dataclass(frozen=True, slots=True)
class Services:
    """Channels to the services; each is an address that balances by itself."""

    analyst: grpc.aio.Channel
    worker: grpc.aio.Channel
    reducer: grpc.aio.Channel

    def open(self, start: Start) -> AttemptStream[object]:
        """The stream of an attempt; nothing is sent before it is entered."""
        stream: object
        if isinstance(start, analyst_pb2.PlanStart):
            stream = attempt_stream.plan_stream(self.analyst, start)
        elif isinstance(start, worker_pb2.ExecuteStart):
            stream = attempt_stream.execute_stream(self.worker, start)
        else:
            stream = attempt_stream.reduce_stream(self.reducer, start)
        return stream


@dataclass(slots=True)
class _Open:
    """A stream, what it was told, and what it last said of itself."""

    stream: AttemptStream[object]
    task: asyncio.Task[None] | None = None
    grants: int = 0
    stopped: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    usage: common_pb2.Usage = field(default_factory=common_pb2.Usage)
    phase: str = ""
    text: str = ""
    offset: int = 0

    @property
    def done(self) -> bool:
        """Whether nothing more comes from the stream."""
        return self.task is not None and self.task.done()

    def show(self, progress: attempt_pb2.AttemptProgress) -> None:
        """Keeps the latest of what the attempt says it is doing."""
        if progress.HasField("usage"):
            self.usage = progress.usage
        self.phase = progress.phase or self.phase
        if progress.text:
            whole = self.text + progress.text
            self.text = whole[-SHOWN_TEXT:]
            self.offset = progress.offset + len(progress.text) - len(self.text)


class Streams:
    """One job's streams."""

    def __init__(self, services: Services, clock: Clock, wake: Callable[[], None]) -> None:
        """Nothing is open yet.

        Args:
            services: Where to open streams.
            clock: Database time.
            wake: Called whenever the inbox or the broken streams have grown.
        """
        self._services = services
        self._clock = clock
        self._wake = wake
        self._open: dict[AttemptKey, _Open] = {}
        self._inbox: list[Observed] = []
        self._broken: dict[AttemptKey, Broken] = {}
        self.moved = False

    def __len__(self) -> int:
        return len(self._open)

    def inbox(self) -> tuple[Observed, ...]:
        """What was said and not yet taken, in order."""
        return tuple(self._inbox)

    def taken(self, count: int) -> None:
        """The first `count` of the inbox are in the log."""
        del self._inbox[:count]

    def broken(self) -> Mapping[AttemptKey, Broken]:
        """Streams that broke and whose attempts the log still has open."""
        return dict(self._broken)

    def carry_out(self, fold: JobFold, now: float, rules: Rules) -> None:
        """Makes the streams what the state wants them to be."""
        for attempt in fold.attempts.values():
            if attempt.epoch != fold.epoch:
                continue
            opened = self._open.get(attempt.key)
            if opened is None:
                if attempt.open and attempt.key not in self._broken:
                    self._start(fold, attempt, now, rules)
            elif attempt.open:
                self._tell(opened, attempt)
            else:
                self._end(opened, attempt)
        for key in [k for k in self._broken if not fold.attempts[k].open]:
            del self._broken[key]
        for key in [k for k, o in self._open.items() if o.done and not fold.attempts[k].open]:
            del self._open[key]

    async def close(self) -> None:
        """Ends all streams. Services that were not acknowledged report elsewhere."""
        tasks = {o.task: o.over.is_set() for o in self._open.values() if o.task is not None}
        ending = [task for task, over in tasks.items() if over]
        # First those that still spend: another driver may be at this very job.
        for task, over in tasks.items():
            if not over:
                task.cancel()
        try:
            if ending:
                # Acknowledged ones close by themselves in a moment.
                await asyncio.wait(ending, timeout=CLOSING)
        finally:
            for task in ending:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def snapshot(self, fold: JobFold, now: float, rules: Rules) -> job_pb2.JobProgress:
        """What runs now."""
        self.moved = False
        running = [a for a in fold.open_attempts() if a.key in self._open][:SHOWN_ATTEMPTS]
        return job_pb2.JobProgress(
            job_id=fold.job_id,
            sequence=fold.version,
            attempts=[_running(fold, a, self._open[a.key]) for a in running],
            ledger=ledger_of(fold, rules, settled=fold.ended),
            time=timestamp(now),
            ready_tasks=0 if fold.ended else len(ready_tasks(fold)),
        )

    def _start(self, fold: JobFold, attempt: AttemptFold, now: float, rules: Rules) -> None:
        stream = self._services.open(start_frame(fold, attempt, now, rules))
        opened = _Open(stream)
        self._open[attempt.key] = opened
        name = f"attempt {fold.job_id}/{attempt.uid}/{attempt.number}"
        opened.task = asyncio.create_task(self._follow(attempt.key, opened), name=name)

    def _tell(self, opened: _Open, attempt: AttemptFold) -> None:
        if opened.stream.outcome is not None:
            return
        if attempt.grants > opened.grants:
            opened.grants = attempt.grants
            opened.stream.grant(attempt.grant)
        if attempt.stop is not None and not opened.stopped:
            opened.stopped = True
            opened.stream.stop(attempt.stop)

    def _end(self, opened: _Open, attempt: AttemptFold) -> None:
        """The log knows how it ended: acknowledge the result, or hang up."""
        if opened.over.is_set():
            return
        finished = isinstance(opened.stream.outcome, attempt_stream.Finished)
        if attempt.status is AttemptStatus.FINISHED and finished:
            opened.stream.ack()
        elif opened.task is not None and not finished:
            opened.task.cancel()
        opened.over.set()

    async def _follow(self, key: AttemptKey, opened: _Open) -> None:
        """Follows one stream; a defect here must not leave its attempt open for ever."""
        try:
            await self._read(key, opened)
        except Exception:  # noqa: BLE001 - the last resort, logged
            _log.exception("following a stream failed")
            self._broken[key] = Broken(self._clock.now(), "the MetaAgent failed to follow it")
            self._wake()

    async def _read(self, key: AttemptKey, opened: _Open) -> None:
        """Reads one stream to its end; holds it open until the result is committed."""
        async with opened.stream as stream:
            async for item in stream:
                if isinstance(item, attempt_pb2.AttemptProgress):
                    opened.show(item)
                    self.moved = True
                elif isinstance(item, attempt_pb2.CallIntent):
                    self._put(Intended(key, item))
                else:
                    self._put(Planned(key, item))
            match stream.outcome:
                case attempt_stream.Finished(result):
                    self._put(Ended(key, result))
                    await opened.over.wait()
                case attempt_stream.Refused(message, retry_after):
                    limited = common_pb2.FAILURE_CLASS_RATE_LIMITED
                    self._put(Refused(key, limited, message, retry_after or 0.0))
                case attempt_stream.Lost(failure_class, message, admitted):
                    if admitted:
                        self._broken[key] = Broken(self._clock.now(), message)
                        self._wake()
                    else:
                        # Without a sign of the service it was sent no heartbeat, and
                        # without a heartbeat it makes no call: nothing was spent.
                        self._put(Refused(key, failure_class, message))

    def _put(self, seen: Observed) -> None:
        self._inbox.append(seen)
        self._wake()


def _running(fold: JobFold, attempt: AttemptFold, opened: _Open) -> job_pb2.RunningAttempt:
    return job_pb2.RunningAttempt(
        ref=attempt_pb2.AttemptRef(
            job_id=fold.job_id,
            epoch=attempt.epoch,
            task_uid=attempt.uid,
            attempt=attempt.number,
        ),
        task_id=task_name(fold, attempt.uid),
        role=attempt.role,
        route=attempt.route,
        usage=opened.usage,
        offset=opened.offset,
        text=opened.text,
        phase=opened.phase,
    )
