"""What a hard budget costs and buys: overshoot, latency of grants, re-use of refunds.

python -m bench.budget            # two minutes
python -m bench.budget --quick    # a few seconds, rough figures

All services, loopback gRPC, PostgreSQL with fsync, a scripted model server, in one process;
the last two tables are computed without any of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import hma
from bench.stage.answers import DOCUMENT, Reader
from bench.stage.echo import round_trips
from bench.stage.running import Whole, database_server, running
from bench.stage.tables import milliseconds, percent, quantile, show, sign_test
from hma.rpc.attempt import Attempt
from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.decide import decide
from services.meta_agent.deciding.valuing import weight_of
from services.meta_agent.driving import driver
from services.meta_agent.job.state import JobFold
from services.meta_agent.store.append import Append
from services.meta_agent.store.log import JobLog
from tests.unit.meta_agent import simulation
from tests.unit.meta_agent.simulation import Faults, World, make_created, make_rules


def questions(count: int, job: int = 0) -> str:
    """A request of so many questions."""
    return "Answer these questions:\n" + "\n".join(
        f"{n}. In which year was mill {job}.{n} built?" for n in range(1, count + 1)
    )


@dataclass
class Circulation:
    """Tokens that went out as grants and came back, over the logs of all jobs."""

    granted: dict[str, int] = field(default_factory=dict)
    returned: dict[str, int] = field(default_factory=dict)
    budget: dict[str, int] = field(default_factory=dict)

    def observe(self, event: job_pb2.JobEvent, before: JobFold, fold: JobFold) -> None:
        """Notes by how much an event changes what is held or spent."""
        name, change = event.job_id, _claimed(fold) - _claimed(before)
        self.budget[name] = fold.budget
        into = self.granted if change > 0 else self.returned
        into[name] = into.get(name, 0) + abs(change)

    def reused(self) -> tuple[int, int]:
        """Tokens that were granted again after they had come back, and all that came back.

        A grant is taken to be made of tokens that were never granted, as long as there
        are some: the least that can be said.
        """
        again = sum(max(granted - self.budget[name], 0) for name, granted in self.granted.items())
        return again, sum(self.returned.values())


def _claimed(fold: JobFold) -> int:
    return fold.spent + fold.unknown + fold.outstanding


Asked = tuple[str, str, int, int]
"""Names a call: its job, task, attempt and number."""


@dataclass
class Latencies:
    """Times of what a grant is made of, in seconds.

    Attributes:
        waited: Of calls that had to ask, from the intent to the grant.
        covered: Of calls that the first grant paid for.
        decided: One decision.
        committed: The append that carried a call's grant.
    """

    waited: dict[Asked, float] = field(default_factory=dict)
    covered: list[float] = field(default_factory=list)
    decided: list[float] = field(default_factory=list)
    committed: dict[Asked, float] = field(default_factory=dict)

    @property
    def beyond(self) -> list[float]:
        """What the calls that asked waited besides the commit."""
        return [
            t - self.committed[name] for name, t in self.waited.items() if name in self.committed
        ]

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Takes the times of all that happens in the context."""
        ask, append = Attempt.ask, JobLog.append

        async def timed_ask(attempt: Attempt, intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
            least = intent.prompt_tokens + intent.max_completion_tokens
            covered = attempt.held(intent.call) >= least
            begin = time.perf_counter()
            grant = await ask(attempt, intent)
            took = time.perf_counter() - begin
            if covered:
                self.covered.append(took)
            else:
                self.waited[_name(attempt.ref, intent.call)] = took
            return grant

        async def timed_append(log: JobLog, batch: Append) -> int:
            begin = time.perf_counter()
            version = await append(log, batch)
            took = time.perf_counter() - begin
            for event in batch.events:
                if event.HasField("call_granted"):
                    granted = event.call_granted
                    self.committed[_name(granted.ref, granted.grant.call)] = took
            return version

        def timed_decide(*arguments: Any) -> object:
            begin = time.perf_counter()
            decision = decide(*arguments)
            self.decided.append(time.perf_counter() - begin)
            return decision

        with (
            patch.object(Attempt, "ask", timed_ask),
            patch.object(JobLog, "append", timed_append),
            patch.object(driver, "decide", timed_decide),
        ):
            yield


def _name(ref: attempt_pb2.AttemptRef, call: int) -> Asked:
    return ref.job_id, ref.task_uid, ref.attempt, call


async def measure_grants(server: str, *, quick: bool) -> None:
    """Prints how long calls wait for a grant at several loads."""
    rows: list[Sequence[object]] = []
    loads = ((1, 1), (1, 8), (8, 4)) if quick else ((1, 1), (1, 8), (8, 4), (16, 8))
    for jobs, tasks in loads:
        latencies = Latencies()
        reader = Reader(1, answer=(1, 3), token_delay=0.05)
        async with running(server, reader, profile="smollm2", places=200, in_flight=200) as whole:
            with latencies.taken():
                await asyncio.gather(
                    *(_many_calls(whole, tasks, 8 if jobs * tasks > 1 else 30) for _ in range(jobs))
                )
        rows.append(
            (
                f"{jobs} jobs, {tasks} tasks each",
                len(latencies.covered),
                milliseconds(latencies.covered),
                len(latencies.waited),
                calm(list(latencies.waited.values())),
                calm(list(latencies.committed.values())),
                calm(latencies.decided),
                calm(latencies.beyond),
                calm(await round_trips(200)),
            )
        )
    show(
        "Wait of a call for its grant, in ms: p50 / p95, and p10 / p50 / p95",
        ("", "covered", "wait", "asked", "wait", "commit", "decide", "beyond commit", "echo"),
        rows,
    )
    print("  covered: paid for by the grant that came with the start; waits for the driver's")
    print("  first sign only. asked: intent, decision, group commit, grant. commit: the append")
    print("  that carried the grant, fsync included. beyond commit: what is added to that (aim:")
    print("  1 ms p50). echo: one message there and back on the same kind of stream, idle.")


def calm(values: Sequence[float]) -> str:
    """10 % quantile, median and 95 % quantile of times in seconds, in milliseconds.

    On a busy machine the first says what the work takes, the last what waiting takes.
    """
    return " / ".join(f"{1000 * quantile(values, share):.1f}" for share in (0.1, 0.5, 0.95))


async def _many_calls(whole: Whole, tasks: int, calls: int) -> hma.Job:
    """A job of tasks with so many calls each, all but the first of which have to ask."""
    plan: dict[str, Any] = {
        "tasks": [
            {
                "id": f"t{task}",
                "instruction": "Answer the questions.",
                "items": [
                    {"item_id": f"t{task}.{n}", "text": f"In which year was mill {n} built?"}
                    for n in range(calls)
                ],
            }
            for task in range(tasks)
        ]
    }
    return await whole.client.run(
        "Find the years.", plan=plan, documents=[DOCUMENT], budget=1_000_000, deadline=120
    )


async def measure_overshoot(server: str, *, quick: bool) -> None:
    """Prints overshoot, and what became of tokens that came back, with jobs short of money."""
    jobs = 4 if quick else 12
    rows = [
        await _short_jobs(server, name, profile, count, budget, budgeting, jobs)
        for name, profile, count, budget in (
            ("one question a call", "smollm2", 20, 2_000),
            ("eight questions a call", "standard", 60, 9_000),
        )
        for budgeting in (job_pb2.SWITCH_ON, job_pb2.SWITCH_OFF)
    ]
    show(
        "Jobs that are short of tokens: dynamic budgeting and fixed shares",
        ("", "calls", "at once", "overshoot", "ledger - server", "spent", "answers/1k", "re-used"),
        rows,
    )
    print("  overshoot: tokens over the budget by the server's own count, over all jobs (must be")
    print("  0, and so must ledger - server). answers/1k: by a model, per 1,000 tokens of budget.")
    print("  re-used: of the tokens that came back from grants, those that were granted again;")
    print("  a grant counts as fresh tokens as long as there are any, so this is the least.")


async def _short_jobs(
    server: str,
    name: str,
    profile: str,
    count: int,
    budget: int,
    budgeting: job_pb2.Switch.ValueType,
    jobs: int,
) -> Sequence[object]:
    tokens = Circulation()
    async with running(
        server,
        Reader(2, answer=(1, 1), evidence=(2, 8), token_delay=0.005),
        profile=profile,
        observers=(tokens.observe,),
        places=200,
        in_flight=100,
    ) as whole:
        policy = job_pb2.JobPolicy(budgeting=budgeting, shape=job_pb2.JOB_SHAPE_TEAM)
        done = await asyncio.gather(
            *(
                whole.client.run(
                    questions(count, number),
                    documents=[DOCUMENT],
                    budget=budget,
                    deadline=60,
                    policy=policy,
                )
                for number in range(jobs)
            )
        )
        by_job = {job.job_id: 0 for job in done}
        for call in whole.llm.calls:
            by_job[call.headers["x-hma-job"]] += call.total_tokens
        at_once = whole.llm.max_concurrency
    read = sum(item.origin == common_pb2.ORIGIN_MODEL for job in done for item in job.answer.items)
    again, back = tokens.reused()
    return (
        f"{name}, {'dynamic' if budgeting == job_pb2.SWITCH_ON else 'fixed'}",
        sum(len(job.ledger.rows) for job in done),
        at_once,
        sum(max(spent - budget, 0) for spent in by_job.values()),
        sum(job.ledger.spent_tokens for job in done) - sum(by_job.values()),
        percent(sum(by_job.values()), budget * jobs, 0),
        f"{1000 * read / (budget * jobs):.2f}",
        percent(again, back, 0),
    )


class _Enough(Exception):
    """So many decisions have been timed; how the job ends does not matter."""


def measure_decide(*, quick: bool) -> None:
    """Prints how long one decision takes, by the size of the plan."""
    rows = []
    for tasks in (10, 100) if quick else (10, 100, 500):
        for short in (False, True):
            budget = tasks * (120 if short else 2_000)
            created = make_created(items=tasks, budget=budget, plan=sparse_plan(tasks))
            world = World(5, created, make_rules(max_plan_tasks=500), slots=20)
            took = decisions(world, 5.0 if quick else 10.0)
            p50, p95 = (f"{1000 * quantile(took, share):.2f}" for share in (0.5, 0.95))
            words = "short of tokens" if short else "enough tokens"
            rows.append((f"{tasks} tasks, {words}", len(took), p50, p95, f"{1000 * max(took):.1f}"))
    show(
        "One decision, 20 tasks at once, in ms of CPU time",
        ("", "turns", "p50", "p95", "most"),
        rows,
    )


def sparse_plan(tasks: int) -> task_pb2.Plan:
    """A plan as people write them: a task needs two others at most."""
    dice, plan = random.Random(2), task_pb2.Plan()
    for number in range(1, tasks + 1):
        before = sorted({dice.randint(1, number - 1) for _ in range(2 * (number > 1))})
        task = plan.tasks.add(id=f"t{number}", instruction="Answer the question.")
        task.depends_on.extend(f"t{each}" for each in before if dice.random() < 0.5)
        task.items.add(item_id=f"q{number}", text="In which year was it built?")
    return plan


def decisions(world: World, seconds: float) -> list[float]:
    """CPU seconds of each decision of a simulated job; for so many seconds at most."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    def timed(*arguments: Any) -> object:
        begin = time.thread_time()
        decision = decide(*arguments)
        took.append(time.thread_time() - begin)
        if time.perf_counter() > end:
            raise _Enough
        return decision

    # The world's own checks of every event are not what is measured.
    with (
        patch.object(simulation, "decide", timed),
        patch.object(World, "_check"),
        contextlib.suppress(_Enough),
    ):
        world.run()
    return took


def measure_allocation(*, quick: bool) -> None:
    """Prints what moving tokens buys in simulation, against fixed shares."""
    rows = []
    faults = Faults(failed=0.1, partial=0.1, ungrounded=0.1)
    for scarce in (40, 80, 150):
        wins = losses = 0
        bought = {job_pb2.SWITCH_ON: 0.0, job_pb2.SWITCH_OFF: 0.0}
        tokens = 0
        for seed in range(60 if quick else 200):
            gained = {}
            for switch in bought:
                policy = job_pb2.JobPolicy(budgeting=switch)
                created = make_created(items=12, budget=12 * scarce, documents=1, policy=policy)
                fold = World(seed, created, make_rules(), faults, slots=6).run()
                items = fold.answer.items if fold.answer is not None else ()
                gained[switch] = sum(weight_of(item) for item in items)
                bought[switch] += gained[switch]
            tokens += 12 * scarce
            dynamic, fixed = gained[job_pb2.SWITCH_ON], gained[job_pb2.SWITCH_OFF]
            wins += dynamic > fixed
            losses += dynamic < fixed
        dynamic, fixed = (1000 * value / tokens for value in bought.values())
        rows.append(
            (
                f"{scarce} tokens per item",
                f"{dynamic:.2f}",
                f"{fixed:.2f}",
                f"{dynamic / fixed:.2f}" if fixed else "-",
                f"{wins} : {losses}",
                f"{sign_test(wins, losses):.1g}",
            )
        )
    show(
        "Simulated jobs of 12 items: answers per 1,000 tokens of budget",
        ("", "dynamic", "fixed", "ratio", "better : worse", "p (sign test)"),
        rows,
    )


async def run(server: str, *, quick: bool) -> None:
    """Measures what needs services and prints it."""
    await measure_grants(server, quick=quick)
    await measure_overshoot(server, quick=quick)


def main() -> None:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    quick = parser.parse_args().quick
    with database_server() as server:
        asyncio.run(run(server, quick=quick))
    measure_decide(quick=quick)
    measure_allocation(quick=quick)


if __name__ == "__main__":
    main()
