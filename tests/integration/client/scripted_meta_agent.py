"""A MetaAgentService that plays scripts: real gRPC on loopback, no model, no database.

    with ScriptedMetaAgent(script=Team().steps(), speed=20) as server:
        client = hma.Client(server.address)

Each accepted job plays the script in (scaled) time. Faults are named beforehand:
`fail`, `lose_reply`, `break_watch_after`. Runs its own event loop in a thread, so that
blocking clients and other processes can talk to it. To look at the live view:

    python -m tests.integration.client.scripted_meta_agent --port 8080 --tasks 8
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from grpc_status import rpc_status

from hma.client.requests import TERMINAL
from hma.errors import HmaError, InvalidRequest, NotFound, PreconditionFailed, Unavailable
from hma.rpc.status import to_status
from hma.v1 import admin_pb2, job_pb2, meta_agent_pb2, meta_agent_pb2_grpc, task_pb2
from services.meta_agent.edge.explanation import explain
from tests.integration.client.job_logs import Team
from tests.integration.client.log_steps import Step, Update, stamp
from tests.integration.client.projecting import project
from tests.unit.meta_agent.simulation import make_rules

WAIT = 30.0


class ScriptedJob:
    """One job: its log so far, and who waits for more."""

    def __init__(self, job_id: str, script: Sequence[Step]) -> None:
        self.job_id = job_id
        self.script = script
        self.updates: list[Update] = []
        self.changed = asyncio.Condition()
        self.asked = asyncio.Event()
        self.request = ""
        self.job = job_pb2.Job(job_id=job_id, tenant="default", state=job_pb2.JOB_STATE_QUEUED)

    @property
    def ended(self) -> bool:
        return self.job.state in TERMINAL

    async def publish(self, update: Update) -> None:
        async with self.changed:
            self.updates.append(update)
            if update.HasField("event"):
                project(self.job, update.event)
            self.changed.notify_all()

    async def after(self, index: int) -> list[Update]:
        """Updates from `index` on, when there are any or the job has ended."""
        async with self.changed:
            await self.changed.wait_for(lambda: index < len(self.updates) or self.ended)
            return self.updates[index:]

    async def play(self, speed: float) -> None:
        """Plays the script until its end, or until somebody asks for another one."""
        began = asyncio.get_running_loop().time()
        for step in self.script:
            left = began + step.at / speed - asyncio.get_running_loop().time()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.asked.wait(), max(left, 0.001))
            if self.asked.is_set():
                await self.end_early(step.at)
                return
            await self.publish(step.update)

    async def end_early(self, at: float) -> None:
        cancelled = self.request == "cancel"
        await self.event(at, **self.asked_payload())
        if cancelled:
            await self.event(at, job_finished=_finished(job_pb2.JOB_STATE_CANCELLED, "cancelled"))
            return
        answer = task_pb2.Answer(
            text="What was there when you interrupted.",
            missing=[task_pb2.Missing(item_id="q8", reason="interrupted before its turn")],
        )
        finished = _finished(job_pb2.JOB_STATE_PARTIAL, "interrupted")
        finished.answer.CopyFrom(answer)
        await self.event(at, job_finished=finished)

    def asked_payload(self) -> dict[str, Any]:
        if self.request == "cancel":
            return {"cancel_requested": job_pb2.CancelRequested(reason="asked")}
        return {"interrupt_requested": job_pb2.InterruptRequested(reason="asked")}

    async def event(self, at: float, **payload: Any) -> None:
        sequence = self.job.last_sequence + 1
        event = job_pb2.JobEvent(
            job_id=self.job_id,
            sequence=sequence,
            event_id=f"{self.job_id}/{sequence}",
            time=stamp(at),
            **payload,
        )
        await self.publish(Update(event=event))


class Servicer(meta_agent_pb2_grpc.MetaAgentServiceServicer):
    """The service. Attributes that start without an underscore are for tests."""

    def __init__(self, script: Sequence[Step], speed: float) -> None:
        self.script = script
        self.speed = speed
        self.jobs: dict[str, ScriptedJob] = {}
        self.requests: list[Any] = []
        self.metadata: list[list[tuple[str, str | bytes]]] = []
        self.calls: dict[str, int] = defaultdict(int)
        self.failures: dict[str, list[HmaError]] = defaultdict(list)
        self.lost_replies: dict[str, int] = defaultdict(int)
        self.breaks: list[int] = []
        self.deaf: set[str] = set()
        self.components = [
            meta_agent_pb2.Component(name="database", state=meta_agent_pb2.COMPONENT_STATE_UP)
        ]
        self.usage = [meta_agent_pb2.GetUsageResponse()]
        self.quota = admin_pb2.Quota(tenant="default")
        self._by_request: dict[str, str] = {}
        self._players: set[asyncio.Task[None]] = set()

    async def CreateJob(self, request: Any, context: Any) -> Any:
        await self._enter("CreateJob", request, context)
        if not request.job.task_description:
            error = InvalidRequest.field("job.task_description", "must not be empty")
            await _abort(context, error)
        job_id = self._by_request.get(request.request_id) if request.request_id else None
        if job_id is None:
            job_id = f"job-01k0scripted{len(self.jobs):013d}"
            self._by_request[request.request_id] = job_id
            self._start(job_id, request.job)
        await self._leave("CreateJob", context)
        job = self.jobs[job_id].job
        return meta_agent_pb2.CreateJobResponse(
            job_id=job_id, state=job.state, watch_url=f"/v1/jobs/{job_id}:watch"
        )

    def _start(self, job_id: str, spec: job_pb2.JobSpec) -> None:
        script = []
        for step in self.script:
            update = Update()
            update.CopyFrom(step.update)
            entry = update.event if update.HasField("event") else update.progress
            entry.job_id = job_id
            if update.event.HasField("job_created"):
                update.event.job_created.task_description = spec.task_description
            script.append(Step(step.at, update))
        job = self.jobs[job_id] = ScriptedJob(job_id, script)
        job.job.budget.CopyFrom(spec.budget)
        player = asyncio.create_task(job.play(self.speed))
        self._players.add(player)
        player.add_done_callback(self._players.discard)

    async def GetJob(self, request: Any, context: Any) -> Any:
        await self._enter("GetJob", request, context)
        job = await self._job(request.job_id, context)
        wait = request.wait.ToTimedelta().total_seconds()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait), job.changed:
                await job.changed.wait_for(lambda: job.ended)
        return job.job

    async def ExplainJob(self, request: Any, context: Any) -> Any:
        await self._enter("ExplainJob", request, context)
        job = await self._job(request.job_id, context)
        events = [update.event for update in job.updates if update.HasField("event")]
        return explain(events, make_rules())

    async def ListJobs(self, request: Any, context: Any) -> Any:
        await self._enter("ListJobs", request, context)
        start = int(request.page_token or 0)
        jobs = [job.job for job in reversed(self.jobs.values())]
        jobs = [job for job in jobs if not request.states or job.state in request.states]
        size = request.page_size or 50
        page = meta_agent_pb2.ListJobsResponse(jobs=jobs[start : start + size])
        if start + size < len(jobs):
            page.next_page_token = str(start + size)
        return page

    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[Update]:
        await self._enter("WatchJob", request, context)
        job = await self._job(request.job_id, context)
        index = 0
        while True:
            fresh = await job.after(index)
            index += len(fresh)
            for update in fresh:
                if update.HasField("progress") and request.events_only:
                    continue
                if update.HasField("event") and update.event.sequence <= request.after_sequence:
                    continue
                yield update
                if update.HasField("event") and update.event.sequence in self.breaks:
                    self.breaks.remove(update.event.sequence)
                    await _abort(context, Unavailable("this replica is draining"))
            if job.ended and index == len(job.updates):
                return

    async def CancelJob(self, request: Any, context: Any) -> Any:
        return await self._ask("CancelJob", "cancel", request, context)

    async def InterruptJob(self, request: Any, context: Any) -> Any:
        return await self._ask("InterruptJob", "interrupt", request, context)

    async def _ask(self, rpc: str, what: str, request: Any, context: Any) -> job_pb2.Job:
        await self._enter(rpc, request, context)
        job = await self._job(request.job_id, context)
        if job.ended:
            await _abort(context, PreconditionFailed(f"{job.job_id} has ended"))
        if what not in self.deaf:
            job.request = what
            job.asked.set()
        await self._leave(rpc, context)
        return job.job

    async def GrantBudget(self, request: Any, context: Any) -> Any:
        await self._enter("GrantBudget", request, context)
        job = await self._job(request.job_id, context)
        if job.ended:
            await _abort(context, PreconditionFailed(f"{job.job_id} has ended"))
        if request.request_id not in self._by_request:
            self._by_request[request.request_id] = job.job_id
            job.job.budget.max_tokens += request.tokens
            job.job.budget.max_cost += request.cost
        await self._leave("GrantBudget", context)
        return job.job

    async def GetUsage(self, request: Any, context: Any) -> Any:
        """Plays the pages of `usage`."""
        await self._enter("GetUsage", request, context)
        return self.usage[int(request.page_token or 0)]

    async def GetQuota(self, request: Any, context: Any) -> Any:
        """Answers with `quota`."""
        await self._enter("GetQuota", request, context)
        return self.quota

    async def DeleteJob(self, request: Any, context: Any) -> Any:
        await self._enter("DeleteJob", request, context)
        job = await self._job(request.job_id, context)
        if not job.ended:
            await _abort(context, PreconditionFailed(f"{job.job_id} runs; cancel it first"))
        del self.jobs[job.job_id]
        await self._leave("DeleteJob", context)
        return meta_agent_pb2.DeleteJobResponse()

    async def GetSystemStatus(self, request: Any, context: Any) -> Any:
        await self._enter("GetSystemStatus", request, context)
        return meta_agent_pb2.SystemStatus(
            components=self.components, replicas=1, version="0.1.0", time=stamp(0)
        )

    async def close(self) -> None:
        for player in list(self._players):
            player.cancel()
        await asyncio.gather(*self._players, return_exceptions=True)

    async def _enter(self, rpc: str, request: Any, context: Any) -> None:
        self.calls[rpc] += 1
        self.requests.append(request)
        self.metadata.append([(key, value) for key, value in context.invocation_metadata()])
        if self.failures[rpc]:
            await _abort(context, self.failures[rpc].pop(0))

    async def _leave(self, rpc: str, context: Any) -> None:
        """What was asked is done; the reply may still get lost."""
        if self.lost_replies[rpc]:
            self.lost_replies[rpc] -= 1
            await _abort(context, Unavailable("the reply got lost"))

    async def _job(self, job_id: str, context: Any) -> ScriptedJob:
        if job_id not in self.jobs:
            await _abort(context, NotFound(f"there is no job {job_id}"))
        return self.jobs[job_id]


class ScriptedMetaAgent:
    """The server: a context manager with its loop in a thread of its own."""

    def __init__(
        self,
        script: Sequence[Step] = (),
        *,
        speed: float = 20.0,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.servicer = Servicer(script or Team().steps(), speed)
        self.port = port
        self._credentials = credentials
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._run(self.servicer.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    def start(self) -> None:
        """Serves, on the same port as before if there was one."""
        self._run(self._start())

    def stop(self) -> None:
        """Breaks every connection; jobs go on and `start` brings the server back."""
        self._run(self._server.stop(0))

    def break_watch_after(self, *sequences: int) -> None:
        """Breaks a watch once behind each of these events."""
        self.servicer.breaks.extend(sequences)

    def fail(self, rpc: str, *failures: HmaError) -> None:
        """Makes the next calls of `rpc` fail with these."""
        self.servicer.failures[rpc].extend(failures)

    def lose_reply(self, rpc: str) -> None:
        """Makes the next call of `rpc` do its work and lose its answer."""
        self.servicer.lost_replies[rpc] += 1

    def wait_for(self, rpc: str) -> None:
        """Waits until `rpc` has been called."""
        end = time.monotonic() + WAIT
        while not self.servicer.calls[rpc]:
            if time.monotonic() > end:
                raise TimeoutError(f"{rpc} was not called")
            time.sleep(0.01)

    async def _start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        meta_agent_pb2_grpc.add_MetaAgentServiceServicer_to_server(self.servicer, self._server)
        if self._credentials is None:
            self.port = self._server.add_insecure_port(self.address)
        else:
            self.port = self._server.add_secure_port(self.address, self._credentials)
        await self._server.start()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)


def _finished(state: job_pb2.JobState.ValueType, reason: str) -> job_pb2.JobFinished:
    return job_pb2.JobFinished(state=state, reason=reason)


async def _abort(context: Any, error: HmaError) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


def main() -> None:
    """Serves until Ctrl-C, for a person who wants to look at the live view."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--failing", type=int, nargs="*", default=[])
    parser.add_argument("--lost", type=int, nargs="*", default=[])
    options = parser.parse_args()
    team = Team(
        tasks=options.tasks,
        workers=options.workers,
        failing=options.failing,
        lost=options.lost,
        budget=max(5000, options.tasks * 300 + 1000),
    )
    with ScriptedMetaAgent(team.steps(), speed=options.speed, port=options.port) as server:
        print(f"serving on {server.address}; Ctrl-C stops")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
