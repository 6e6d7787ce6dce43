"""A MetaAgent's edge on a real database, with jobs that a test moves on by hand."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from hma.llm.base import Readiness
from hma.llm.prices import Prices
from hma.llm.profiles import PRESETS
from hma.llm.routes import Route, Routes
from hma.rpc.channel import open_channel
from hma.rpc.server import bind
from hma.v1 import attempt_pb2, common_pb2, job_pb2, meta_agent_pb2, meta_agent_pb2_grpc, task_pb2
from services.meta_agent.__main__ import rules_of, services_of
from services.meta_agent.access.audit_trail import AuditTrail
from services.meta_agent.access.observing import AccessObserver
from services.meta_agent.access.opening import open_access
from services.meta_agent.access.settings import AccessSettings
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.edge.limits import Limits
from services.meta_agent.edge.reader import JobReader
from services.meta_agent.edge.relay import Relays
from services.meta_agent.edge.status import Peer, StatusBoard
from services.meta_agent.edge.watch import Watches
from services.meta_agent.job.times import timestamp
from services.meta_agent.settings import MetaAgentServerSettings, MetaAgentSettings
from services.meta_agent.store.append import Append, JobSummary
from services.meta_agent.store.ids import new_event_id, new_replica_id
from services.meta_agent.store.store import Store, open_store


class ScriptedModels:
    """Says of each route what the test has told it."""

    def __init__(self) -> None:
        self.answer = Readiness(True, "m is ready.")
        self.asked = 0

    async def readiness(self, route: Route) -> Readiness:
        self.asked += 1
        return self.answer


@dataclass
class Edge:
    """The running edge and what stands behind it."""

    store: Store
    board: ProgressBoard
    watches: Watches
    relays: Relays
    reader: JobReader
    models: ScriptedModels
    registry: CollectorRegistry
    trail: AuditTrail
    port: int
    channel: grpc.aio.Channel
    api: meta_agent_pb2_grpc.MetaAgentServiceAsyncStub
    internal: meta_agent_pb2_grpc.InternalServiceAsyncStub
    epochs: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def spec(text: str = "Which port is it?") -> job_pb2.JobSpec:
        """A job that is accepted."""
        spec = job_pb2.JobSpec(task_description=text, total_budget_tokens=2000)
        spec.documents.add(name="a.md", text="# A\n\nThe port is 8080.\n")
        return spec

    def running(self, method: str) -> int:
        """RPCs of a method that run here now."""
        name = "hma_rpcs_running"
        return int(self.registry.get_sample_value(name, {"method": method}) or 0)

    async def create(self, text: str = "Which port is it?", **fields: Any) -> str:
        """Has a job accepted; returns its id."""
        request = meta_agent_pb2.CreateJobRequest(job=self.spec(text), **fields)
        response = await self.api.CreateJob(request, timeout=30)
        return response.job_id

    async def claim(self, job_id: str) -> None:
        """Takes all open jobs, this one among them."""
        claimed = await self.store.claims.claim(
            self.store.replica_id, 1000, driving=list(self.epochs)
        )
        for job in claimed:
            self.epochs[job.job_id] = job.epoch
        assert job_id in self.epochs

    async def append(
        self, job_id: str, *, seal: bool = False, count: int = 1, **payload: Any
    ) -> None:
        """Appends an event `count` times, as the job's driver would."""
        if job_id not in self.epochs:
            await self.claim(job_id)
        events = [
            job_pb2.JobEvent(
                job_id=job_id,
                event_id=new_event_id(),
                time=timestamp(self.store.clock.now()),
                epoch=self.epochs[job_id],
                **payload,
            )
            for _ in range(count)
        ]
        version = (await self.store.jobs.get(job_id)).version
        (kind,) = payload
        finished = payload[kind] if kind == "job_finished" else None
        await self.store.log.append(
            Append(
                job_id=job_id,
                epoch=self.epochs[job_id],
                events=events,
                summary=JobSummary(finished.state, finished.reason) if finished else None,
                seal=seal,
                expected_version=version if seal else None,
            )
        )

    async def note(self, job_id: str, reason: str, count: int = 1) -> None:
        """Appends state changes that change nothing but the reason."""
        running = job_pb2.JOB_STATE_RUNNING
        change = job_pb2.StateChanged(**{"from": running}, to=running, reason=reason)
        await self.append(job_id, count=count, state_changed=change)

    async def finish(
        self, job_id: str, state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_SUCCEEDED
    ) -> None:
        """Ends a job."""
        finished = job_pb2.JobFinished(state=state, reason="by hand")
        finished.answer.CopyFrom(task_pb2.Answer(text="8080"))
        await self.append(job_id, seal=True, job_finished=finished)

    async def start_attempt(self, job_id: str) -> attempt_pb2.AttemptRef:
        """Has a Worker's attempt start."""
        await self.claim(job_id) if job_id not in self.epochs else None
        ref = attempt_pb2.AttemptRef(
            job_id=job_id, epoch=self.epochs[job_id], task_uid="1.1", attempt=1
        )
        started = job_pb2.AttemptStarted(ref=ref, role=common_pb2.ROLE_WORKER, route="fast")
        started.grant.MergeFrom(attempt_pb2.Grant(call=1, tokens=500))
        await self.append(job_id, attempt_started=started)
        return ref


def routes() -> Routes:
    fast = Route(
        name="fast",
        base_url="http://127.0.0.1:1/v1",
        model="m",
        profile=PRESETS["smollm2"],
        prices=Prices(prompt=1.0, cached_prompt=0.5, completion=2.0),
    )
    return Routes({"fast": fast}, "fast")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def running_edge(
    url: str,
    *,
    limits: Limits | None = None,
    peers: tuple[Peer, ...] = (),
    access: AccessSettings | None = None,
    observer: AccessObserver | None = None,
    port: int = 0,
) -> AsyncIterator[Edge]:
    """Serves over `url` on a free port; without `access` nobody is asked who calls."""
    settings = MetaAgentSettings(
        # Other replicas are told the port before it is bound.
        server=MetaAgentServerSettings(port=port or _free_port(), metrics_port=0),
        limits=limits or Limits(),
        public_url="http://hma.test/",
    )
    models, registry = ScriptedModels(), CollectorRegistry()
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(
                url, replica_id=new_replica_id("test"), address=settings.advertised_address()
            )
        )
        board = ProgressBoard()
        relays = await stack.enter_async_context(
            Relays(store.replica_id, store.replicas.driver_of, store.notifications, board)
        )
        watches = Watches(
            store.log,
            store.jobs,
            store.notifications,
            board,
            relays,
            most=settings.limits.max_watches,
        )
        reader = JobReader(store.log)
        store.notifications.on_deleted(reader.forget)
        status = StatusBoard(store, peers, routes(), models)
        rules = rules_of(settings, routes())
        trail = AuditTrail(store.audit, registry)
        services = services_of(
            settings, store, watches, status, rules, reader=reader, board=board, trail=trail
        )
        interceptors = []
        if access is not None:
            opened = await stack.enter_async_context(
                open_access(access, store, observer or trail, tenant="default")
            )
            services += opened.services
            interceptors.append(opened.interceptor)
        server, health, port = bind(settings.server, services, registry, interceptors)
        await server.start()
        await health.say(True)
        try:
            async with open_channel(f"127.0.0.1:{port}") as channel:
                yield Edge(
                    store=store,
                    board=board,
                    watches=watches,
                    relays=relays,
                    reader=reader,
                    models=models,
                    registry=registry,
                    trail=trail,
                    port=port,
                    channel=channel,
                    api=meta_agent_pb2_grpc.MetaAgentServiceStub(channel),
                    internal=meta_agent_pb2_grpc.InternalServiceStub(channel),
                )
        finally:
            watches.drain()
            await server.stop(2)
