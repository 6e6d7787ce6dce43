"""A real Worker on loopback: a scripted model, scripted documents, a driver that grants."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.settings import LlmSettings
from hma.rpc.attempt_stream import AttemptStream, Finished, Outcome, execute_stream
from hma.rpc.channel import open_channel
from hma.rpc.documents import DocumentReader
from hma.rpc.slots import Slots
from hma.text.outline import outline
from hma.v1 import (
    attempt_pb2,
    common_pb2,
    meta_agent_pb2,
    meta_agent_pb2_grpc,
    task_pb2,
    worker_pb2,
    worker_pb2_grpc,
)
from services.worker.metrics import WorkerMetrics
from services.worker.reading import Library
from services.worker.servicer import WorkerServicer
from tests.integration.llm.attempts import profiled
from tests.scripted_llm import ScriptedLLM

Grants = Callable[[attempt_pb2.CallIntent], attempt_pb2.Grant]


def everything(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
    """Pays for all that is asked."""
    tokens = intent.prompt_tokens + intent.max_completion_tokens
    return attempt_pb2.Grant(call=intent.call, tokens=tokens)


def nothing(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
    """Pays for nothing."""
    return attempt_pb2.Grant(call=intent.call, denied=True, reason="no tokens are left")


def least(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
    """Pays for the least that the call is worth: others wait for tokens."""
    tokens = intent.prompt_tokens + intent.min_completion_tokens
    return attempt_pb2.Grant(call=intent.call, tokens=tokens)


class Documents(meta_agent_pb2_grpc.InternalServiceServicer):
    """The MetaAgent's side: serves documents, keeps late reports."""

    def __init__(self, contents: dict[str, str]) -> None:
        self.contents = contents
        self.reads = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.reports: list[meta_agent_pb2.ReportAttemptRequest] = []

    async def WatchProgress(self, request: Any, context: Any) -> Any:
        raise NotImplementedError
        yield

    async def ReserveRoute(self, request: Any, context: Any) -> Any:
        return meta_agent_pb2.ReserveRouteResponse(granted=True)

    async def ReadDocument(self, request: Any, context: Any) -> Any:
        self.reads += 1
        await self.hold.wait()
        yield meta_agent_pb2.ReadDocumentResponse(chunk=self.contents[request.document_id].encode())

    async def ReportAttempt(self, request: Any, context: Any) -> Any:
        self.reports.append(request)
        return meta_agent_pb2.ReportAttemptResponse(recorded=True)

    def report(self, ref: Any, result: Any, role: Any) -> None:
        """Takes a result directly, as the reporter's sink."""
        self.reports.append(meta_agent_pb2.ReportAttemptRequest(ref=ref, result=result, role=role))


@dataclass
class Shop:
    """A Worker and what it works with."""

    llm: ScriptedLLM
    channel: grpc.aio.Channel
    documents: Documents
    slots: Slots
    intents: list[attempt_pb2.CallIntent] = field(default_factory=list)

    def start(
        self,
        task: task_pb2.Task,
        *,
        uid: str = "1.1",
        route: str = "fast",
        tokens: int = 0,
        **more: Any,
    ) -> worker_pb2.ExecuteStart:
        """A start frame over all documents."""
        refs = [
            outline(name, f"{name}.md", "text/markdown", text)
            for name, text in self.documents.contents.items()
        ]
        for ref in refs:
            content = self.documents.contents[ref.document_id].encode()
            ref.sha256 = hashlib.sha256(content).hexdigest()
            ref.size_bytes = len(content)
        start = worker_pb2.ExecuteStart(task=task, documents=refs, **more)
        start.attempt.ref.CopyFrom(
            attempt_pb2.AttemptRef(job_id="job-1", epoch=1, task_uid=uid, attempt=1)
        )
        start.attempt.route = route
        start.attempt.time_left.FromSeconds(30)
        start.attempt.grant.call = 1
        start.attempt.grant.tokens = tokens
        return start

    def open(self, start: worker_pb2.ExecuteStart) -> AttemptStream[Any]:
        """The driver's side of an attempt."""
        return execute_stream(self.channel, start, heartbeat=0.2)

    async def execute(
        self, start: worker_pb2.ExecuteStart, grants: Grants = everything
    ) -> attempt_pb2.AttemptResult:
        """Drives an attempt to its end."""
        outcome = await self.drive(start, grants)
        assert isinstance(outcome, Finished), outcome
        return outcome.result

    async def drive(
        self, start: worker_pb2.ExecuteStart, grants: Grants = everything
    ) -> Outcome | None:
        """Drives an attempt; says how its stream ended."""
        async with asyncio.timeout(30), self.open(start) as stream:
            async for item in stream:
                if isinstance(item, attempt_pb2.CallIntent):
                    self.intents.append(item)
                    held = start.attempt.grant.tokens if item.call == 1 else 0
                    if item.prompt_tokens + item.max_completion_tokens > held:
                        stream.grant(grants(item))
            if isinstance(stream.outcome, Finished):
                stream.ack()
            return stream.outcome


@asynccontextmanager
async def open_shop(
    script: Sequence[Any] | Callable[[Any], Any] = (),
    *,
    documents: dict[str, str] | None = None,
    places: int = 20,
    profile: str = "standard",
    changes: Mapping[str, Any] | None = None,
    **llm_options: Any,
) -> AsyncIterator[Shop]:
    """A Worker that serves until the context is left.

    Args:
        script: What the model says.
        documents: Contents by id.
        places: Attempts at once.
        profile: Preset of the routes.
        changes: Fields of the profile that differ.
        llm_options: Of `ScriptedLLM`.
    """
    async with AsyncExitStack() as stack:
        llm = await stack.enter_async_context(ScriptedLLM(script, **llm_options))
        internal = Documents(documents or {})
        server = grpc.aio.server()
        meta_agent_pb2_grpc.add_InternalServiceServicer_to_server(internal, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, 0)
        home = await stack.enter_async_context(open_channel(f"127.0.0.1:{port}"))
        settings = LlmSettings(base_url=llm.base_url, profile=profile)
        client = await stack.enter_async_context(OpenAICompatible(settings))
        slots = await stack.enter_async_context(Slots(places, grace=2))
        servicer = WorkerServicer(
            client,
            profiled(
                llm.routes(profile=profile, context_tokens=llm.context_tokens), **changes or {}
            ),
            Library(DocumentReader(home, 1 << 20), 1 << 20),
            slots,
            internal,
            WorkerMetrics(CollectorRegistry(), lambda: slots.running),
        )
        worker = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, worker)
        worker_port = worker.add_insecure_port("127.0.0.1:0")
        await worker.start()
        stack.push_async_callback(worker.stop, 0)
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{worker_port}"))
        yield Shop(llm, channel, internal, slots)


def make_task(*questions: str, **more: Any) -> task_pb2.Task:
    """A task that answers questions."""
    items = [task_pb2.Item(item_id=f"q{n}", text=q) for n, q in enumerate(questions, 1)]
    values = {"id": "t", "instruction": "Answer.", "kind": common_pb2.TASK_KIND_ANSWER, **more}
    return task_pb2.Task(items=items, **values)


def spent(result: attempt_pb2.AttemptResult) -> int:
    """Tokens of all calls of a result."""
    return sum(c.usage.prompt_tokens + c.usage.completion_tokens for c in result.calls)
