"""A MetaAgent replica on a real PostgreSQL, with services on loopback that do scripted work."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc

from hma.llm.base import Readiness
from hma.rpc.attempt import Attempt
from hma.rpc.attempt_server import AttemptTiming, serve_attempt
from hma.rpc.channel import open_channel
from hma.rpc.slots import Slots
from hma.v1 import (
    analyst_pb2,
    analyst_pb2_grpc,
    attempt_pb2,
    common_pb2,
    job_pb2,
    reducer_pb2,
    reducer_pb2_grpc,
    task_pb2,
    worker_pb2,
    worker_pb2_grpc,
)
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.driving.capacity import Capacity
from services.meta_agent.driving.driver import Surroundings
from services.meta_agent.driving.drivers import Drivers
from services.meta_agent.driving.history_watch import HistoryWatch
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.driving.route_gates import GateRules
from services.meta_agent.driving.route_watch import RouteWatch
from services.meta_agent.driving.streams import Services
from services.meta_agent.job.apply import fold_events
from services.meta_agent.job.state import JobFold
from services.meta_agent.job.times import timestamp
from services.meta_agent.store.ids import new_job_id, new_replica_id
from services.meta_agent.store.new_job import NewJob
from services.meta_agent.store.quota_lock import QuotaRules
from services.meta_agent.store.store import Store, StoreOptions, open_store
from services.meta_agent.upkeep.quota import QuotaUpkeep
from tests.unit.meta_agent.simulation import make_rules

Work = Callable[[Any, Attempt], Awaitable[attempt_pb2.AttemptResult]]


class ReadyModel:
    """A model server that is there; `ready` can be turned off."""

    def __init__(self) -> None:
        self.ready = True
        self.queue: int | None = None

    async def readiness(self, _route: object) -> Readiness:
        return Readiness(self.ready, "" if self.ready else "the model is still loading")

    async def waiting(self, _route: object) -> int | None:
        return self.queue


async def answer_task(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
    """One call, within its grant, then an answer for every item."""
    intent = attempt_pb2.CallIntent(
        call=1, prompt_tokens=50, max_completion_tokens=20, min_completion_tokens=1
    )
    grant = await attempt.ask(intent)
    if grant.denied:
        failure = common_pb2.Failure(failure_class=common_pb2.FAILURE_CLASS_BUDGET)
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED, failure=failure)
    usage = common_pb2.Usage(prompt_tokens=50, completion_tokens=5)
    attempt.calls.append(
        attempt_pb2.CallUsage(call=1, route=attempt.route, usage=usage, finish_reason="stop")
    )
    names = [item.item_id for item in start.task.items] or [start.task.id]
    items = [task_pb2.ItemAnswer(item_id=name, answer="yes", grounded=True) for name in names]
    return attempt_pb2.AttemptResult(
        state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED, task=task_pb2.TaskResult(items=items)
    )


async def plan_each_item(start: analyst_pb2.PlanStart, attempt: Attempt) -> Any:
    """A task for each item."""
    for index, item in enumerate(start.items, 1):
        task = task_pb2.Task(id=f"t{index}", instruction=item.text, items=[item])
        await attempt.emit(analyst_pb2.PlanFragment(index=index, task=task))
    outcome = attempt_pb2.PlanOutcome(
        source=attempt_pb2.PLAN_SOURCE_STRUCTURAL, tasks=len(start.items)
    )
    return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED, plan=outcome)


async def reduce_all(start: reducer_pb2.ReduceStart, _attempt: Attempt) -> Any:
    """All answers, one after another."""
    items = [item for outcome in start.outcomes for item in outcome.result.items]
    text = "; ".join(f"{item.item_id}: {item.answer}" for item in items)
    answer = task_pb2.Answer(text=text, items=items)
    return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED, answer=answer)


@dataclass
class Scripts:
    """What the services do."""

    plan: Work = plan_each_item
    execute: Work = answer_task
    reduce: Work = reduce_all
    places: int = 20
    reports: list[tuple[attempt_pb2.AttemptRef, attempt_pb2.AttemptResult]] = field(
        default_factory=list
    )

    def report(
        self,
        ref: attempt_pb2.AttemptRef,
        result: attempt_pb2.AttemptResult,
        _role: common_pb2.Role.ValueType,
    ) -> None:
        self.reports.append((ref, result))


class Servicer(
    analyst_pb2_grpc.AnalystServiceServicer,
    worker_pb2_grpc.WorkerServiceServicer,
    reducer_pb2_grpc.ReducerServiceServicer,
):
    """All three services in one."""

    def __init__(self, scripts: Scripts, slots: Slots) -> None:
        self.scripts, self.slots = scripts, slots

    def _serve(self, requests: Any, context: Any, work: Work, response: Any, role: Any) -> Any:
        return serve_attempt(
            requests,
            context,
            start_of=lambda request: request.start,
            wrap_report=lambda report: response(report=report),
            wrap_fragment=lambda fragment: response(fragment=fragment),
            work=work,
            limiter=self.slots,
            reporter=self.scripts,
            role=role,
            timing=AttemptTiming(heartbeat=3.0),
        )

    async def Plan(self, request_iterator: Any, context: Any) -> Any:
        async for response in self._serve(
            request_iterator,
            context,
            lambda start, attempt: self.scripts.plan(start, attempt),
            analyst_pb2.PlanResponse,
            common_pb2.ROLE_ANALYST,
        ):
            yield response

    async def Execute(self, request_iterator: Any, context: Any) -> Any:
        async for response in self._serve(
            request_iterator,
            context,
            lambda start, attempt: self.scripts.execute(start, attempt),
            worker_pb2.ExecuteResponse,
            common_pb2.ROLE_WORKER,
        ):
            yield response

    async def Reduce(self, request_iterator: Any, context: Any) -> Any:
        async for response in self._serve(
            request_iterator,
            context,
            lambda start, attempt: self.scripts.reduce(start, attempt),
            reducer_pb2.ReduceResponse,
            common_pb2.ROLE_REDUCER,
        ):
            yield response


@asynccontextmanager
async def serve_scripts(scripts: Scripts) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to services that do what the scripts say."""
    async with Slots(scripts.places, grace=1) as slots:
        server = grpc.aio.server()
        servicer = Servicer(scripts, slots)
        analyst_pb2_grpc.add_AnalystServiceServicer_to_server(servicer, server)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)
        reducer_pb2_grpc.add_ReducerServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with open_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            await server.stop(0)


@dataclass
class Replica:
    """A replica that drives."""

    store: Store
    drivers: Drivers
    board: ProgressBoard
    model: ReadyModel
    watch: RouteWatch
    running: asyncio.Task[None]

    async def create(
        self,
        created: job_pb2.JobCreated,
        deadline: float = 60.0,
        *,
        waits: bool = False,
        least_tokens: int = 1,
    ) -> str:
        """A job as the edge creates it."""
        job_id = new_job_id()
        now = self.store.clock.now()
        created.deadline_time.CopyFrom(timestamp(now + deadline))
        event = job_pb2.JobEvent(
            job_id=job_id, event_id="created", time=timestamp(now), job_created=created
        )
        await self.store.jobs.create(
            NewJob(
                job_id=job_id,
                tenant=created.tenant,
                request_id="",
                fingerprint=hashlib.sha256(job_id.encode()).digest(),
                title=created.task_description,
                create_time=datetime.fromtimestamp(now, UTC),
                deadline=datetime.fromtimestamp(now + deadline, UTC),
                budget_tokens=created.budget.max_tokens,
                priority=created.policy.priority,
                waits=waits,
                least_tokens=least_tokens,
            ),
            event,
            [],
        )
        return job_id

    async def events(self, job_id: str) -> list[job_pb2.JobEvent]:
        """Its whole log."""
        return await self.store.log.read(job_id, 0, 10_000)

    async def fold(self, job_id: str) -> JobFold:
        """What its log says."""
        return fold_events(await self.events(job_id))

    async def until(
        self, job_id: str, condition: Callable[[JobFold], object], timeout: float = 60
    ) -> JobFold:
        """Waits until the log says so."""
        async with asyncio.timeout(timeout):
            while True:
                fold = await self.fold(job_id)
                if condition(fold):
                    return fold
                await self.store.notifications.wait(job_id, fold.version, 1.0)

    async def ended(self, job_id: str, timeout: float = 60) -> JobFold:
        """Waits until it has ended."""
        return await self.until(job_id, lambda fold: fold.ended, timeout)


@asynccontextmanager
async def open_replica(
    url: str,
    channel: grpc.aio.Channel,
    *,
    rules: Rules | None = None,
    places: int = 64,
    max_jobs: int = 50,
    observers: Sequence[Callable[[job_pb2.JobEvent, JobFold, JobFold], None]] = (),
    services: Services | None = None,
    quota: QuotaRules | None = None,
    gates: GateRules | None = None,
) -> AsyncIterator[Replica]:
    """A replica that drives jobs until the context is left."""
    rules = rules or make_rules()
    replica_id = new_replica_id("test")
    driven: list[Drivers] = []

    def lease_lost() -> None:
        for each in driven:
            each.lease_lost()

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(
                url,
                replica_id=replica_id,
                address="127.0.0.1:1",
                on_lost=lease_lost,
                options=StoreOptions(quota=quota or QuotaRules()),
            )
        )
        model, board = ReadyModel(), ProgressBoard()
        watch = RouteWatch(model, rules.routes, gates, while_down=0.05, while_up=0.2)
        around = Surroundings(
            log=store.log,
            notifications=store.notifications,
            clock=store.clock,
            services=services or Services(channel, channel, channel),
            rules=rules,
            routes=watch,
            capacity=Capacity(places),
            board=board,
            history=HistoryWatch(store.fleet),
            held=store.beat.held,
            draws=store.quotas.draws,
            observers=observers,
        )
        drivers = Drivers(store.claims, store.notifications, replica_id, around, max_jobs=max_jobs)
        driven.append(drivers)

        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(watch.run())
                group.create_task(drivers.run())
                group.create_task(QuotaUpkeep(store.quotas).run())

        running = asyncio.create_task(run())
        try:
            yield Replica(store, drivers, board, model, watch, running)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
