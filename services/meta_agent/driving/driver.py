"""Drives one job: reads its log, decides, appends, carries out; again until it ends.

The shell around `decide`. It holds no rule: what is open follows from the state
after every commit, and what services say goes into the inbox of the next decision.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hma.errors import Fenced
from hma.v1 import job_pb2
from services.meta_agent.deciding.decide import Decision, decide
from services.meta_agent.deciding.dispatching import ready_tasks
from services.meta_agent.deciding.money import held_money
from services.meta_agent.deciding.observed import Observations
from services.meta_agent.deciding.quota import Wanted
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.deciding.turn import open_workers
from services.meta_agent.driving.capacity import Capacity, claimant
from services.meta_agent.driving.history_watch import HistoryWatch
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.driving.route_watch import RouteWatch
from services.meta_agent.driving.streams import Services, Streams
from services.meta_agent.driving.tenant_quota import TenantQuota
from services.meta_agent.job.apply import apply, fold_events
from services.meta_agent.job.state import JobFold
from services.meta_agent.job.times import timestamp
from services.meta_agent.store.append import Append, JobSummary, VersionMoved
from services.meta_agent.store.claims import Claimed
from services.meta_agent.store.clock import Clock
from services.meta_agent.store.log import JobLog
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.quota_draws import Draws

_log = logging.getLogger(__name__)

PAGE = 500
"""Events read from the log at a time."""

LOOK_AGAIN = 5.0
"""Seconds after which a driver looks, though nothing has happened."""

OWN_COMMIT = 0.002
"""Seconds in which a driver has usually folded what it has just committed."""

PROGRESS_INTERVAL = 0.25
"""Seconds between two snapshots of what runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all drivers of a replica share.

    Attributes:
        history: What calls have cost so far.
        held: Whether this replica's lease is held, seen from here and now.
        draws: Takes tokens and places out of tenants' quotas.
        observers: Told of every event that this replica commits or reads while it
            drives, and of what no driver has read before, with the states before and
            after it. They must not wait and must not fail.
    """

    log: JobLog
    notifications: Notifications
    clock: Clock
    services: Services
    rules: Rules
    routes: RouteWatch
    capacity: Capacity
    board: ProgressBoard
    history: HistoryWatch
    held: Callable[[], bool]
    draws: Draws
    observers: Sequence[Callable[[job_pb2.JobEvent, JobFold, JobFold], None]] = ()


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
        self._decided = False
        self._budget_changed = False
        self._leaving = False
        self._quota = TenantQuota(claimed, around.draws, around.rules.routes.dearest)

    @property
    def ended(self) -> bool:
        """Whether the job has ended, as far as this driver knows."""
        return self._fold.ended

    @property
    def ready_tasks(self) -> int:
        """Tasks that could run but have no open attempt."""
        return 0 if self._fold.ended else len(ready_tasks(self._fold))

    def leave(self) -> None:
        """Starts no more tasks, and lets `run` return once no attempt is open."""
        self._leaving = True
        self._news.set()

    async def run(self) -> None:
        """Until the job has ended, or is to be left and nothing runs in its name."""
        job_id = self._claimed.job_id
        around = self._around
        around.routes.listen(self, self._news.set)
        listener = asyncio.create_task(self._listen(), name=f"listen {job_id}")
        try:
            await self._take_over()
            self._introduce()
            while not self._is_over():
                wake_at = await self._step()
                if not self._is_over():
                    await self._wait(wake_at)
        finally:
            listener.cancel()
            around.routes.unlisten(self)
            around.capacity.leave(job_id)
            around.routes.leave(job_id)
            around.board.forget(job_id)
            await self._streams.close()
            await asyncio.gather(listener, return_exceptions=True)

    def _is_over(self) -> bool:
        left = self._leaving and not any(self._fold.open_attempts())
        return self._fold.ended or left

    async def _take_over(self) -> None:
        await self._read_first()
        claimed = job_pb2.JobClaimed(replica=self._replica, epoch=self._claimed.epoch)
        events = [self._event("claimed", job_claimed=claimed)]
        if not self._claimed.accepted and self._fold.interrupted is None:
            # Nothing may be started in its name: it ends with what there is without work.
            reason = "its tenant's quota had no room for it in its time"
            interrupt = job_pb2.InterruptRequested(reason=reason)
            events.append(self._event("unaccepted", interrupt_requested=interrupt))
        await self._commit(tuple(events), fold_events(events, self._fold), seals=False)

    def _event(self, name: str, **payload: Any) -> job_pb2.JobEvent:
        """An event of the driver itself, once in its epoch."""
        return job_pb2.JobEvent(
            job_id=self._claimed.job_id,
            event_id=f"{self._claimed.epoch}.{name}",
            time=timestamp(self._around.clock.now()),
            epoch=self._claimed.epoch,
            **payload,
        )

    async def _step(self) -> float:
        """One decision, committed and carried out; returns when to wake."""
        around, job_id = self._around, self._claimed.job_id
        self._news.clear()
        if around.notifications.known(job_id) > self._fold.version:
            await self._read()
        inbox = self._streams.inbox()
        observed = Observations(
            inbox=inbox,
            broken=self._streams.broken(),
            slots=self._slots(free := self._free()),
            routes=around.routes.states_for(job_id),
            quota_most=self._quota.most,
        )
        now = around.clock.now()
        rules = replace(around.rules, history=around.history.latest)
        decision = decide(self._fold, observed, now, rules)
        # No await since `free_for`: places are booked before anybody else decides.
        self._book(decision, free)
        if decision.events:
            self._decided = True
            if not await self._commit(decision.events, decision.fold, seals=decision.seals):
                return now  # the log had moved: decide again, with the same inbox
        self._streams.taken(len(inbox))
        if not around.held():
            # Woken after a long stop: another replica may be at this very job.
            raise Fenced("the lease of this replica is lost")
        self._streams.carry_out(self._fold, around.clock.now(), rules)
        self._show()
        return min(decision.wake_at, await self._match_quota(decision.wanted))

    async def _match_quota(self, wanted: Wanted | None) -> float:
        """Draws what the job could use of its tenant's quota; returns when to wake for it."""
        quota, fold, clock = self._quota, self._fold, self._around.clock
        if fold.ended or (wanted is None and quota.places is None):
            return math.inf
        loop = asyncio.get_running_loop()
        wake_at = math.inf
        if wanted is not None:
            event = await quota.draw(wanted, fold, fold.deadline - clock.now())
            if event is not None:
                await self._read()
                self._news.set()
            wake_at = quota.next_draw
        running = open_workers(fold).total()
        ready = 0 if self._leaving else len(ready_tasks(fold))
        if await quota.match_places(fold, running, ready):
            self._news.set()
        wake_at = min(wake_at, quota.next_look(running, ready))
        return clock.now() + max(wake_at - loop.time(), 0.0)

    def _free(self) -> int:
        """Places at Workers for this job, besides one for each attempt that ends."""
        if self._leaving:
            return -open_workers(self._fold).total()  # not even those
        return self._around.capacity.free_for(self._claimed.job_id)

    def _slots(self, free: int) -> int:
        """Worker attempts that may be opened: where there is a place and the quota has one."""
        if self._quota.places is None:
            return free
        return min(free, self._quota.places - open_workers(self._fold).total())

    def _introduce(self) -> None:
        """Whose the job is, for those who share places out."""
        who = claimant(self._fold.created)
        self._around.capacity.introduce(self._claimed.job_id, who)
        self._around.routes.introduce(self._claimed.job_id, who)

    def _book(self, decision: Decision, free: int) -> None:
        """Takes the places of what was decided, at Workers and on routes.

        Who lacks a place of its tenant's quota does not wait for one at a Worker: it would
        be woken at once, again and again, for there are some.
        """
        around, job_id = self._around, self._claimed.job_id
        before, after = open_workers(self._fold), open_workers(decision.fold)
        no_place = free + before.total() - after.total() <= 0
        waits = no_place and not decision.fold.ended and bool(ready_tasks(decision.fold))
        around.capacity.hold(job_id, after.total(), self._news.set if waits else None)
        around.routes.hold(job_id, self._fold, decision.fold, decision.crowded, self._news.set)

    async def _commit(
        self, events: tuple[job_pb2.JobEvent, ...], after: JobFold, *, seals: bool
    ) -> bool:
        """Appends, then folds what is in the log. False when sealing found news."""
        # A budget that did not change here may have changed in the row.
        budget = after.budget if self._budget_changed else None
        before = self._fold.version
        append = Append(
            job_id=self._claimed.job_id,
            epoch=self._claimed.epoch,
            events=events,
            summary=JobSummary(after.state, after.reason, after.spent, budget),
            seal=seals,
            expected_version=before if seals else None,
            lost_tokens=after.unknown if seals else 0,
            lost_cost=held_money(after, self._around.rules) if seals else 0.0,
        )
        try:
            version = await self._around.log.append(append)
        except VersionMoved:
            await self._read()
            return False
        self._budget_changed = False
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
                self._take(event)
            if len(events) < PAGE:
                return

    async def _read_first(self) -> None:
        """Folds the log as it is found, and observes only what nobody has observed.

        Whoever appended as the driver had read what was before. What others have added
        since then, nobody may have read.
        """
        job_id, unread, after = self._claimed.job_id, list[job_pb2.JobEvent](), 0
        while events := await self._around.log.read(job_id, after, PAGE):
            after = events[-1].sequence
            for event in events:
                unread.append(event)
                if event.epoch > 0:
                    for known in unread:
                        self._apply(known)
                    unread.clear()
            if len(events) < PAGE:
                break
        for event in unread:
            self._take(event)

    def _take(self, event: job_pb2.JobEvent) -> None:
        if event.epoch > self._claimed.epoch:
            # Its attempts would be taken for ours, and opened a second time.
            raise Fenced("the log has events of a later driver")
        before = self._fold
        self._apply(event)
        self._around.capacity.observe(event, self._fold)
        self._around.routes.observe(event, self._fold)
        for observe in self._around.observers:
            observe(event, before, self._fold)

    def _apply(self, event: job_pb2.JobEvent) -> None:
        self._fold = apply(self._fold, event)
        if event.HasField("budget_granted"):
            self._budget_changed = True

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
                self._show()

    async def _listen(self) -> None:
        """Turns notifications about the log into news, each once."""
        notifications, job_id = self._around.notifications, self._claimed.job_id
        told = self._claimed.version
        while True:
            version = max(self._fold.version, told)
            if await notifications.wait(job_id, version, LOOK_AGAIN):
                # What the driver commits itself is folded by then, and is no news.
                await asyncio.sleep(OWN_COMMIT)
                told = notifications.known(job_id)
                if told > self._fold.version:
                    self._news.set()

    def _show(self) -> None:
        """Publishes what changed, at most four times a second; the end at once."""
        now = self._around.clock.now()
        changed = self._decided or self._streams.moved
        if not changed or (now - self._shown < PROGRESS_INTERVAL and not self._fold.ended):
            return
        self._shown = now
        self._decided = False
        self._around.board.publish(self._streams.snapshot(self._fold, now, self._around.rules))
