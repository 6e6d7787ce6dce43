"""Drives one job: reads its log, decides, appends, carries out; again until it ends.

The shell around `decide`. It holds no rule: what is open follows from the state
after every commit, and what services say goes into the inbox of the next decision.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hma.errors import Fenced
from hma.v1 import common_pb2, job_pb2
from services.meta_agent.deciding.decide import Decision, decide
from services.meta_agent.deciding.dispatching import ready_tasks
from services.meta_agent.deciding.observed import Observations
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.driving.capacity import Capacity
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.driving.route_watch import RouteWatch
from services.meta_agent.driving.streams import Services, Streams
from services.meta_agent.job.apply import apply
from services.meta_agent.job.state import JobFold
from services.meta_agent.job.times import timestamp
from services.meta_agent.store.append import Append, JobSummary, VersionMoved
from services.meta_agent.store.claims import Claimed
from services.meta_agent.store.clock import Clock
from services.meta_agent.store.log import JobLog
from services.meta_agent.store.notify import Notifications

_log = logging.getLogger(__name__)

PAGE = 500
"""Events read from the log at a time."""

LOOK_AGAIN = 5.0
"""Seconds after which a driver looks, though nothing has happened."""

PROGRESS_INTERVAL = 0.25
"""Seconds between two snapshots of what runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all drivers of a replica share.

    Attributes:
        held: Whether this replica's lease is held, seen from here and now.
        observers: Told of every event that this replica commits or reads while it
            drives, with the state after it. They must not wait and must not fail.
    """

    log: JobLog
    notifications: Notifications
    clock: Clock
    services: Services
    rules: Rules
    routes: RouteWatch
    capacity: Capacity
    board: ProgressBoard
    held: Callable[[], bool]
    observers: Sequence[Callable[[job_pb2.JobEvent, JobFold], None]] = ()


class JobDriver:
    """Drives one claimed job to its end.

    Raises from `run`:
        Fenced: Another replica has the job; its streams here are closed.
        Unavailable: The database is away; claim the job again later.
    """

    def __init__(self, claimed: Claimed, replica: str, around: Surroundings) -> None:
        self._claimed = claimed
        self._replica = replica
        self._around = around
        self._fold = JobFold()
        self._news = asyncio.Event()
        self._streams = Streams(around.services, around.clock, self._news.set)
        self._shown = 0.0

    @property
    def ready_tasks(self) -> int:
        """Tasks that could run but have no open attempt."""
        return 0 if self._fold.ended else len(ready_tasks(self._fold))

    async def run(self) -> None:
        """Until the job has ended."""
        job_id = self._claimed.job_id
        around = self._around
        around.routes.listen(self, self._news.set)
        listener = asyncio.create_task(self._listen(), name=f"listen {job_id}")
        try:
            await self._take_over()
            while not self._fold.ended:
                wake_at = await self._step()
                if not self._fold.ended:
                    await self._wait(wake_at)
        finally:
            listener.cancel()
            around.routes.unlisten(self)
            around.capacity.leave(job_id)
            around.board.forget(job_id)
            await self._streams.close()
            await asyncio.gather(listener, return_exceptions=True)

    async def _take_over(self) -> None:
        await self._read()
        claimed = job_pb2.JobClaimed(replica=self._replica, epoch=self._claimed.epoch)
        event = job_pb2.JobEvent(
            job_id=self._claimed.job_id,
            event_id=f"{self._claimed.epoch}.claimed",
            time=timestamp(self._around.clock.now()),
            epoch=self._claimed.epoch,
            job_claimed=claimed,
        )
        await self._commit((event,), seals=False)

    async def _step(self) -> float:
        """One decision, committed and carried out; returns when to wake."""
        around = self._around
        self._news.clear()
        if around.notifications.known(self._fold.job_id) > self._fold.version:
            await self._read()
        inbox = self._streams.inbox()
        observed = Observations(
            inbox=inbox,
            broken=self._streams.broken(),
            slots=around.capacity.free,
            routes=around.routes.states,
        )
        now = around.clock.now()
        decision = decide(self._fold, observed, now, around.rules)
        # No await since `free` was read: places are booked before anybody else decides.
        around.capacity.hold(self._fold.job_id, _workers(self._fold, decision))
        if decision.events and not await self._commit(decision.events, seals=decision.seals):
            return now  # the log had moved: decide again, with the same inbox
        self._streams.taken(len(inbox))
        if not around.held():
            # Woken after a long stop: another replica may be at this very job.
            raise Fenced("the lease of this replica is lost")
        self._streams.carry_out(self._fold, around.clock.now(), around.rules)
        if not self._fold.ended and observed.slots <= 0 and ready_tasks(self._fold):
            around.capacity.wait(self._fold.job_id, self._news.set)
        self._show(force=bool(decision.events))
        return decision.wake_at

    async def _commit(self, events: tuple[job_pb2.JobEvent, ...], *, seals: bool) -> bool:
        """Appends, then folds what is in the log. False when sealing found news."""
        after = self._fold
        for event in events:
            after = apply(after, event)
        before = self._fold.version
        append = Append(
            job_id=self._claimed.job_id,
            epoch=self._claimed.epoch,
            events=events,
            summary=JobSummary(after.state, after.reason, after.spent, after.budget),
            seal=seals,
            expected_version=before if seals else None,
        )
        try:
            version = await self._around.log.append(append)
        except VersionMoved:
            await self._read()
            return False
        if version == before + len(events):
            for place, event in enumerate(events, before + 1):
                event.sequence = place
                self._take(event)
        else:
            # Others have written in between: what the log says, in its order.
            await self._read()
        return True

    async def _read(self) -> None:
        """Folds what the log has beyond the state."""
        job_id = self._claimed.job_id
        while events := await self._around.log.read(job_id, self._fold.version, PAGE):
            for event in events:
                # What is in the log at the claim was recorded by those who drove before.
                if event.sequence <= self._claimed.version:
                    self._fold = apply(self._fold, event)
                else:
                    self._take(event)
            if len(events) < PAGE:
                return

    def _take(self, event: job_pb2.JobEvent) -> None:
        self._fold = apply(self._fold, event)
        self._around.capacity.observe(event, self._fold)
        for observe in self._around.observers:
            observe(event, self._fold)

    async def _wait(self, wake_at: float) -> None:
        """Until something happens or it is time."""
        left = min(wake_at - self._around.clock.now(), LOOK_AGAIN)
        end = asyncio.get_running_loop().time() + max(left, 0.0)
        while not self._news.is_set():
            pause = end - asyncio.get_running_loop().time()
            if pause <= 0:
                return
            try:
                async with asyncio.timeout(min(pause, PROGRESS_INTERVAL)):
                    await self._news.wait()
            except TimeoutError:
                self._show(force=False)

    async def _listen(self) -> None:
        """Turns notifications about the log into news."""
        while True:
            version = max(self._fold.version, self._claimed.version)
            if await self._around.notifications.wait(self._claimed.job_id, version, LOOK_AGAIN):
                self._news.set()
                # Until the step that follows has read, this would spin.
                await asyncio.sleep(0.02)

    def _show(self, *, force: bool) -> None:
        """Publishes what runs, at most four times a second unless something was decided."""
        now = self._around.clock.now()
        if not force and (not self._streams.moved or now - self._shown < PROGRESS_INTERVAL):
            return
        self._shown = now
        self._around.board.publish(self._streams.snapshot(self._fold, now, self._around.rules))


def _workers(fold: JobFold, decision: Decision) -> int:
    """Worker attempts that are open once a decision is carried out."""
    for event in decision.events:
        fold = apply(fold, event)
    return sum(a.role == common_pb2.ROLE_WORKER for a in fold.open_attempts())
