"""A whole MetaAgent without a network: real decide and apply, simulated everything else.

One seed decides all: how services behave, which streams break, when drivers die,
when clients interrupt. The simulated services keep the rules of an attempt (a call
only within its grant) and count what they really spend: `World.server_tokens` is
the truth that the ledger is compared with.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.duration_pb2 import Duration

from hma.llm.prices import Prices
from hma.llm.profiles import PRESETS, Profile
from hma.llm.routes import Route, Routes
from hma.v1 import analyst_pb2, attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.budget import purse_of
from services.meta_agent.deciding.decide import decide
from services.meta_agent.deciding.money import held_money
from services.meta_agent.deciding.observed import (
    Broken,
    Ended,
    Intended,
    Observations,
    Observed,
    Planned,
    Refused,
)
from services.meta_agent.deciding.quota import Wanted
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.apply import apply
from services.meta_agent.job.state import AttemptFold, AttemptKey, JobFold, tokens_of
from services.meta_agent.job.times import timestamp

START = 1_700_000_000.0
ROLE_WORKER = common_pb2.ROLE_WORKER


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often things go wrong, 0 to 1, per attempt unless said otherwise."""

    refused: float = 0.0
    broken: float = 0.0
    failed: float = 0.0
    partial: float = 0.0
    late_report: float = 0.5
    driver_dies: float = 0.0
    deaf: float = 0.0
    slow: float = 0.0
    duplicated: float = 0.0
    raced: float = 0.0
    ungrounded: float = 0.0
    empty: float = 0.0


def make_rules(
    preset: str = "smollm2",
    *,
    prices: Prices | None = None,
    profile: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Rules:
    """Rules over the two default routes of a profile.

    Args:
        preset: The profile.
        prices: Of both routes.
        profile: Fields of the profile that differ.
        changes: Fields of the rules that differ.
    """
    known: Profile = replace(PRESETS[preset], **(profile or {}))
    fast = Route(
        name="fast", base_url="http://x/v1", model="m", profile=known, prices=prices or Prices()
    )
    slow = replace(fast, name="reasoning", reasoning=True)
    routes = Routes({"fast": fast, "reasoning": slow}, "fast")
    return Rules(routes=routes, **changes)


def make_created(
    *,
    items: int = 4,
    budget: int = 5000,
    deadline: float = 600.0,
    plan: task_pb2.Plan | None = None,
    policy: job_pb2.JobPolicy | None = None,
    max_cost: float = 0.0,
    documents: int = 0,
    draws: bool = False,
) -> job_pb2.JobCreated:
    """A job as admission makes it."""
    return job_pb2.JobCreated(
        tenant="default",
        task_description="Answer the questions.",
        documents=[task_pb2.DocumentRef(document_id=f"d{n + 1}") for n in range(documents)],
        items=[task_pb2.Item(item_id=f"q{i + 1}", text=f"What is {i}?") for i in range(items)],
        budget=job_pb2.Budget(
            max_tokens=budget, max_cost=max_cost, deadline=Duration(seconds=int(deadline))
        ),
        policy=policy,
        plan=plan,
        deadline_time=timestamp(START + deadline),
        draws_quota=draws,
    )


@dataclass(slots=True)
class Service:
    """One simulated attempt at a service."""

    attempt: AttemptFold
    random: random.Random
    plan: list[tuple[int, int, int]] = field(default_factory=list)
    pace: float = 1.0
    calls: list[attempt_pb2.CallUsage] = field(default_factory=list)
    grants_seen: int = 0
    waiting: attempt_pb2.CallIntent | None = None
    stopped: bool = False
    over: bool = False
    denied: bool = False
    orphan: bool = False


@dataclass(slots=True)
class Quota:
    """A tenant's tokens per minute, as the store counts them: settled, and held by the job.

    Attributes:
        limit: Tokens in any 60 seconds.
        tranche: Drawn at once when there is room.
        others: What the tenant's other jobs use at a time.
        busy: How often, 0 to 1, the store cannot be asked.
    """

    limit: int
    tranche: int = 2000
    others: Callable[[float], int] = lambda now: 0
    busy: float = 0.0
    settled: list[tuple[float, int]] = field(default_factory=list)
    next_try: float = 0.0
    tries: int = 0

    def used(self, now: float) -> int:
        """Settled within the window that ends now."""
        return sum(tokens for time, tokens in self.settled if time > now - 60.0)


class World:
    """One job, its driver, its services and a clock."""

    def __init__(
        self,
        seed: int,
        created: job_pb2.JobCreated,
        rules: Rules,
        faults: Faults | None = None,
        slots: int = 1000,
        quota: Quota | None = None,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.rules = rules
        self.faults = faults or Faults()
        self.slots = slots
        self.quota = quota
        self.now = START
        self.log: list[job_pb2.JobEvent] = []
        self.fold = JobFold()
        self.server_tokens = 0
        self.server_money = 0.0
        self.peak = 0
        self.max_open = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._inbox: list[Observed] = []
        self._broken: dict[AttemptKey, Broken] = {}
        self._services: dict[AttemptKey, Service] = {}
        self._wake_at = START
        self._append(job_pb2.JobEvent(event_id="created", job_created=created))
        self.claim()

    # ---- the log

    def _append(self, event: job_pb2.JobEvent) -> None:
        event.job_id = "job-sim"
        event.sequence = len(self.log) + 1
        if not event.HasField("time"):
            event.time.CopyFrom(timestamp(self.now))
        self.log.append(event)
        before = self.fold
        self.fold = apply(self.fold, event)
        if self.quota is not None and self.fold.spent > before.spent:
            self.quota.settled.append((self.now, self.fold.spent - before.spent))
        self._check()

    def _check(self) -> None:
        """What must hold after every single event."""
        fold = self.fold
        held = fold.spent + fold.unknown + fold.outstanding
        assert held <= fold.budget, f"{held} tokens held of a budget of {fold.budget}"
        purse = purse_of(fold, self.rules)
        assert held + purse.reserved <= fold.budget
        assert purse.reserved + purse.planning + sum(purse.committed.values()) + purse.pool == (
            purse.unspent
        )
        if fold.max_cost:
            money = fold.cost + held_money(fold, self.rules)
            assert money <= fold.max_cost, f"{money} held of {fold.max_cost}"
        if fold.drawn is not None:
            assert held <= fold.drawn <= fold.budget, f"{held} held of {fold.drawn} drawn"
        if self.quota is not None and fold.drawn is not None:
            used = self.quota.used(self.now) + fold.drawn - fold.spent
            assert used <= self.quota.limit, f"{used} used of a limit of {self.quota.limit}"
        rows = fold.rows
        assert sum(row.unknown_tokens for row in rows) == fold.unknown
        assert sum(tokens_of(row.call.usage) for row in rows) == fold.spent
        assert fold.outstanding == purse.outstanding
        self.peak = max(self.peak, held)
        self.max_open = max(self.max_open, sum(1 for _ in fold.open_attempts()))

    def say(self, **payload: object) -> None:
        """A client's or a service's fact reaches the log."""
        if not self.fold.ended:
            self._append(
                job_pb2.JobEvent(event_id=f"x{len(self.log)}", **payload)  # type: ignore[arg-type]
            )

    def claim(self) -> None:
        """A driver takes the job; the streams of the one before are gone."""
        epoch = self.fold.epoch + 1
        for service in self._services.values():
            if not service.over:
                self._lose_driver(service)
        self._inbox.clear()
        self._broken.clear()
        claimed = job_pb2.JobClaimed(replica="r", epoch=epoch)
        self._append(job_pb2.JobEvent(event_id=f"claim{epoch}", epoch=epoch, job_claimed=claimed))

    # ---- the clock

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Runs `action` after `delay` seconds."""
        heapq.heappush(self._queue, (self.now + delay, next(self._order), action))

    def run(self, limit: int = 200_000) -> JobFold:
        """Until the job has ended."""
        if self.random.random() < self.faults.driver_dies:
            self.at(self.random.uniform(0, 20), self._driver_dies)
        for _ in range(limit):
            if self.fold.ended:
                return self.fold
            self._drive()
            if self.fold.ended:
                return self.fold
            upcoming = self._queue[0][0] if self._queue else float("inf")
            self.now = max(self.now, min(upcoming, self._wake_at))
            assert self.now < float("inf"), "nothing will ever happen again"
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
        raise AssertionError("the job did not end")

    def _driver_dies(self) -> None:
        if self.fold.ended:
            return
        self.claim()
        if self.random.random() < 0.3:
            self.at(self.random.uniform(0, 5), self._driver_dies)

    def _drive(self) -> None:
        """Decide, log, carry out; as the driver's shell does."""
        inbox, self._inbox = tuple(self._inbox), []
        running = sum(a.role == ROLE_WORKER for a in self.fold.open_attempts())
        observed = Observations(
            inbox=inbox,
            broken=dict(self._broken),
            slots=max(self.slots - running, 0),
            quota_most=self.quota.limit if self.quota is not None else float("inf"),
        )
        decision = decide(self.fold, observed, self.now, self.rules)
        self._wake_at = max(decision.wake_at, self.now + 1e-4)
        for event in decision.events:
            self._append(event)
        self._broken = {
            key: broken for key, broken in self._broken.items() if self.fold.attempts[key].open
        }
        self._carry_out()
        if decision.wanted is not None and self.quota is not None and not self.fold.ended:
            self._draw(decision.wanted, self.quota)

    def _draw(self, wanted: Wanted, quota: Quota) -> None:
        """As the driver's shell and the store do."""
        if self.now < quota.next_try:
            self._wake_at = min(self._wake_at, quota.next_try)
            return
        quota.tries += 1
        fold = self.fold
        assert fold.drawn is not None
        if self.random.random() < quota.busy:
            quota.next_try = self._wake_at = self.now + 1.0
            return
        free = quota.limit - quota.used(self.now) - quota.others(self.now)
        free = max(free - (fold.drawn - fold.spent), 0)
        more = max(wanted.tokens, min(quota.tranche, fold.budget - fold.drawn))
        tokens, limit = min(more, free), ""
        quota.next_try = self.now
        if free < wanted.least:
            tokens, limit = -wanted.spare, "tokens_per_minute"
            quota.next_try = self.now + 2.0
        if tokens or limit != fold.quota_limit:
            drawn = job_pb2.QuotaDrawn(tokens=tokens, total_tokens=fold.drawn + tokens, limit=limit)
            self._append(job_pb2.JobEvent(event_id=f"q{len(self.log)}", quota_drawn=drawn))
        self._wake_at = min(self._wake_at, max(quota.next_try, self.now + 1e-4))

    def _carry_out(self) -> None:
        for attempt in list(self.fold.open_attempts()):
            if attempt.epoch != self.fold.epoch:
                continue
            service = self._services.get(attempt.key)
            if service is None:
                self._open(attempt)
                continue
            service.attempt = attempt
            if attempt.stop is not None and not service.stopped:
                service.stopped = True
                self.at(self._latency(), lambda s=service: self._stop(s))  # type: ignore[misc]
            elif (
                service.waiting is not None
                and attempt.deferred is None
                and attempt.grant.call == service.waiting.call
            ):
                intent, service.waiting = service.waiting, None
                self.at(self._latency(), lambda s=service, i=intent: self._granted(s, i))  # type: ignore[misc]

    def _latency(self) -> float:
        return self.random.uniform(0.001, 0.02)

    # ---- the services

    def _open(self, attempt: AttemptFold) -> None:
        # Its own dice, so that two policies meet the same services in the same job.
        dice = random.Random(f"{self.seed}/{attempt.uid}/{attempt.number}")
        service = Service(attempt, dice)
        service.plan = self._calls(service)
        if dice.random() < self.faults.slow:
            service.pace = 30.0
        self._services[attempt.key] = service
        roll = dice.random()
        if roll < self.faults.refused:
            service.over = True
            self._inbox.append(Refused(attempt.key, common_pb2.FAILURE_CLASS_RATE_LIMITED, "full"))
            self._wake_at = self.now
            return
        if attempt.uid.startswith("p"):
            self._stream_plan(attempt)
        self.at(self._latency(), lambda: self._next_call(service))

    def _calls(self, service: Service) -> list[tuple[int, int, int]]:
        """(prompt, max completion, min completion) of the calls it will want."""
        if service.attempt.grant.tokens == 0:
            return []
        dice = service.random
        count = dice.choice([1, 1, 1, 2, 3])
        return [
            (dice.randint(20, 250), dice.randint(8, 60), dice.randint(1, 8)) for _ in range(count)
        ]

    def _stream_plan(self, attempt: AttemptFold) -> None:
        items = list(self.fold.created.items)
        self.random.shuffle(items)
        names: list[str] = []
        for index, item in enumerate(items or [None]):
            after = [n for n in names if self.random.random() < 0.2]
            names.append(f"t{index + 1}")
            task = task_pb2.Task(
                id=names[-1],
                instruction="do it",
                depends_on=after,
                critical=self.random.random() < 0.3,
                complexity=self.random.choice(
                    [common_pb2.COMPLEXITY_LOW, common_pb2.COMPLEXITY_HIGH]
                ),
                items=[item] if item is not None else [],
                kind=common_pb2.TASK_KIND_ANSWER,
            )
            self._inbox.append(
                Planned(attempt.key, analyst_pb2.PlanFragment(index=index + 1, task=task))
            )

    def _next_call(self, service: Service) -> None:
        if service.over:
            return
        number = len(service.calls) + 1
        if service.stopped or service.denied or number > len(service.plan):
            self._finish(service)
            return
        if service.random.random() < self.faults.broken:
            self._break(service)
            return
        prompt, most, least = service.plan[number - 1]
        intent = attempt_pb2.CallIntent(
            call=number,
            items=1,
            calls_left=len(service.plan) - number,
            prompt_tokens=prompt,
            max_completion_tokens=most,
            min_completion_tokens=least,
            previous=service.calls[-1] if service.calls else None,
        )
        held = service.attempt.grant
        if held.call == number and not held.denied and prompt + most <= held.tokens:
            self._inbox.append(Intended(service.attempt.key, intent))
            self._call(service, prompt, most)
        else:
            service.waiting = intent
            self._inbox.append(Intended(service.attempt.key, intent))
        if service.random.random() < self.faults.duplicated:
            self._inbox.append(Intended(service.attempt.key, intent))

    def _granted(self, service: Service, intent: attempt_pb2.CallIntent) -> None:
        if service.over:
            return
        grant = service.attempt.grant
        if grant.denied:
            service.denied = True
            self._finish(service)
            return
        assert grant.tokens >= intent.prompt_tokens + intent.min_completion_tokens
        clamped = min(intent.max_completion_tokens, grant.tokens - intent.prompt_tokens)
        self._call(service, intent.prompt_tokens, clamped)

    def _call(self, service: Service, prompt: int, most: int) -> None:
        took = service.pace * service.random.uniform(0.05, 3.0)
        self.at(took, lambda: self._call_over(service, prompt, most))

    def _call_over(self, service: Service, prompt: int, most: int) -> None:
        if service.over:
            return
        self._spend(service, prompt, service.random.randint(1, most))
        if service.random.random() < self.faults.raced:
            # Its last word and an order to stop pass each other; so may a second copy.
            self._finish(service)
            self._inbox.append(self._inbox[-1])
            self.at(0.0, lambda: self._stop(service))
            return
        self._next_call(service)

    def _spend(self, service: Service, prompt: int, completion: int) -> None:
        """The server counts a call, and its service will report it."""
        self.server_tokens += prompt + completion
        call = attempt_pb2.CallUsage(
            call=len(service.calls) + 1,
            route=service.attempt.route,
            usage=common_pb2.Usage(prompt_tokens=prompt, completion_tokens=completion),
        )
        self.server_money += self.rules.cost(call)
        service.calls.append(call)

    def _stop(self, service: Service) -> None:
        service.stopped = True
        if service.over or self.random.random() < self.faults.deaf:
            return
        # A running call is cut: it has cost its prompt and what was generated.
        number = len(service.calls) + 1
        grant = service.attempt.grant
        if service.waiting is None and grant.call == number and not grant.denied and grant.tokens:
            self._spend(service, service.random.randint(0, grant.tokens), 0)
        self._finish(service)

    def _break(self, service: Service) -> None:
        """The stream breaks; what its grant covers may or may not have been spent."""
        service.over = True
        grant = service.attempt.grant
        number = len(service.calls) + 1
        if grant.call == number and not grant.denied:
            self._spend(service, service.random.randint(0, grant.tokens), 0)
        self._broken[service.attempt.key] = Broken(self.now, "the stream broke")
        self._wake_at = self.now
        if self.random.random() < self.faults.late_report:
            self.at(self.random.uniform(0.1, 12.0), lambda: self._report(service))

    def _lose_driver(self, service: Service) -> None:
        service.stopped = service.orphan = True
        self.at(3.0, lambda: None)
        grant, number = service.attempt.grant, len(service.calls) + 1
        service.over = True
        if grant.call == number and not grant.denied and service.waiting is None:
            self._spend(service, service.random.randint(0, grant.tokens), 0)
        if self.random.random() < self.faults.late_report:
            self.at(self.random.uniform(3.0, 12.0), lambda: self._report(service))

    def _report(self, service: Service) -> None:
        ref = attempt_pb2.AttemptRef(task_uid=service.attempt.uid, attempt=service.attempt.number)
        result = self._result(service)
        reported = job_pb2.AttemptReported(
            ref=ref, result=result, costs=[self.rules.cost(call) for call in result.calls]
        )
        self.say(attempt_reported=reported)
        if self.random.random() < self.faults.duplicated:
            self.at(self.random.uniform(0, 3), lambda: self.say(attempt_reported=reported))

    def _finish(self, service: Service) -> None:
        service.over = True
        self._inbox.append(Ended(service.attempt.key, self._result(service)))

    def _result(self, service: Service) -> attempt_pb2.AttemptResult:
        result = attempt_pb2.AttemptResult(calls=service.calls)
        attempt = service.attempt
        dice = service.random
        roll = dice.random()
        if roll < self.faults.failed and not service.stopped:
            result.state = attempt_pb2.ATTEMPT_STATE_FAILED
            result.failure.failure_class = dice.choice(
                [common_pb2.FAILURE_CLASS_TRANSIENT, common_pb2.FAILURE_CLASS_REFUSED]
            )
            return result
        short = service.stopped or service.denied or roll < self.faults.failed + self.faults.partial
        result.state = (
            attempt_pb2.ATTEMPT_STATE_PARTIAL if short else attempt_pb2.ATTEMPT_STATE_SUCCEEDED
        )
        if service.orphan and short:
            result.failure.failure_class = common_pb2.FAILURE_CLASS_TRANSIENT
            result.handed_over = True
        if attempt.uid.startswith("p"):
            result.plan.source = attempt_pb2.PLAN_SOURCE_STRUCTURAL
        elif attempt.uid.startswith("r"):
            self._fill_answer(result.answer)
        else:
            self._fill_result(service, result, short=short)
        return result

    def _fill_result(
        self, service: Service, result: attempt_pb2.AttemptResult, *, short: bool
    ) -> None:
        items = list(self.fold.tasks[service.attempt.uid].task.items)
        kept = items[: len(items) // 2] if short else items
        for item in kept:
            roll = service.random.random()
            if roll < self.faults.empty:
                result.task.missing.add(
                    item_id=item.item_id, failure_class=common_pb2.FAILURE_CLASS_REFUSED
                )
                continue
            result.task.items.add(
                item_id=item.item_id,
                answer="yes",
                grounded=roll >= self.faults.empty + self.faults.ungrounded,
                origin=common_pb2.ORIGIN_MODEL,
            )

    def _fill_answer(self, answer: task_pb2.Answer) -> None:
        best: dict[str, task_pb2.ItemAnswer] = {}
        for task in self.fold.tasks.values():
            for item in task.result.items if task.result is not None else ():
                if item.grounded or item.item_id not in best:
                    best[item.item_id] = item
        answer.items.extend(best.values())
        answer.text = "the answer"
        have = set(best)
        answer.missing.extend(
            task_pb2.Missing(item_id=i.item_id)
            for i in self.fold.created.items
            if i.item_id not in have
        )
