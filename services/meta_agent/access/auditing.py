"""Has every RPC leave its trace: mutations always, anything when it is refused.

Reads that succeed are not recorded: they change nothing, and there are too many of them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from hma.errors import HmaError, NotFound, PermissionDenied, QuotaExceeded, Unauthenticated
from hma.rpc.errors import code_of
from hma.telemetry.credentials import without_credentials
from services.meta_agent.access.audit_trail import AuditTrail
from services.meta_agent.access.caller import known_caller
from services.meta_agent.store.audit import AuditRow, serving
from services.meta_agent.store.ids import is_job_id

Context = grpc.aio.ServicerContext[Any, Any]

MUTATIONS = frozenset(
    {
        "CreateJob",
        "CancelJob",
        "InterruptJob",
        "GrantBudget",
        "DeleteJob",
        "CreateKey",
        "RotateKey",
        "RevokeKey",
        "SetQuota",
    }
)
"""RPCs that change something: recorded, whatever comes of them."""

READS = frozenset(
    {
        "GetJob",
        "ListJobs",
        "WatchJob",
        "ExplainJob",
        "GetUsage",
        "GetQuota",
        "GetSystemStatus",
        "ListKeys",
        "ListAuditEntries",
    }
)
"""RPCs that change nothing: recorded when they are refused."""

REFUSALS = (Unauthenticated, PermissionDenied, NotFound, QuotaExceeded)
"""What counts as refused."""

_NOBODY = "anonymous"
"""Who calls when nobody is asked who they are."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def audited(servicer: object, service: ServiceDescriptor, trail: AuditTrail, *, tenant: str) -> Any:
    """A servicer that does what `servicer` does and leaves a trace of it.

    Args:
        servicer: Serves every RPC of `service`.
        service: Its descriptor.
        trail: Where the traces go.
        tenant: Whose trail it is when nobody says who calls.

    Raises:
        ValueError: An RPC is neither among MUTATIONS nor among READS.
    """
    recording = _Recording(trail, tenant)
    wrapped: dict[str, Any] = {}
    for method in service.methods:
        behaviour = getattr(servicer, method.name)
        if method.name in MUTATIONS and not method.server_streaming:
            wrapped[method.name] = recording.mutation(method.name, behaviour)
        elif method.name not in READS:
            raise ValueError(f"whether {method.full_name} changes anything is not declared")
        elif method.server_streaming:
            wrapped[method.name] = recording.stream(method.name, behaviour)
        else:
            wrapped[method.name] = recording.read(method.name, behaviour)
    return SimpleNamespace(**wrapped)


class _Recording:
    def __init__(self, trail: AuditTrail, tenant: str) -> None:
        self._trail = trail
        self._tenant = tenant

    def mutation(
        self, name: str, behaviour: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def call(request: Message, context: Context) -> Any:
            row = self._row(name, request)
            with serving(row) as deed:
                try:
                    response = await behaviour(request, context)
                    if not deed.written:
                        # It took effect before, or in a transaction that wrote no row: the
                        # caller hears of it once the trail has it.
                        resource = resource_of(response) or row.resource
                        await self._trail.confirm(replace(row, resource=resource))
                    return response
                except asyncio.CancelledError:
                    if not deed.written:
                        self._trail.note(replace(row, code=grpc.StatusCode.CANCELLED.name))
                    raise
                except Exception as error:
                    self._trail.note(_refused(row, error, context))
                    raise

        return call

    def read(
        self, name: str, behaviour: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def call(request: Message, context: Context) -> Any:
            try:
                return await behaviour(request, context)
            except REFUSALS as error:
                self._trail.note(_refused(self._row(name, request), error, context))
                raise

        return call

    def stream(
        self, name: str, behaviour: Callable[[Any, Context], Any]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def call(request: Message, context: Context) -> AsyncIterator[Any]:
            try:
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
            except REFUSALS as error:
                self._trail.note(_refused(self._row(name, request), error, context))
                raise

        return call

    def _row(self, method: str, request: Message) -> AuditRow:
        caller = known_caller()
        if caller is None:
            row = AuditRow(tenant=self._tenant, subject=_NOBODY, method=method)
        else:
            row = AuditRow(
                tenant=caller.tenant,
                subject=caller.subject or _NOBODY,
                method=method,
                address=caller.address,
                request_id=caller.request_id,
            )
        return replace(row, resource=resource_of(request))


def _refused(row: AuditRow, error: Exception, context: Context) -> AuditRow:
    if isinstance(error, HmaError):
        return replace(row, code=code_of(error).name, reason=error.reason)
    code: Any = context.code() if isinstance(error, grpc.aio.AbortError) else None
    name = code.name if isinstance(code, grpc.StatusCode) else grpc.StatusCode.INTERNAL.name
    return replace(row, code=name, reason=HmaError.reason)


def resource_of(message: Message) -> str:
    """The job, key or tenant that a message names; what cannot be one is not repeated."""
    fields = message.DESCRIPTOR.fields_by_name
    if "key" in fields and fields["key"].message_type is not None:
        return resource_of(message.key)  # type: ignore[attr-defined]
    if "job_id" in fields:
        job_id = message.job_id  # type: ignore[attr-defined]
        return job_id if is_job_id(job_id) else ""
    for name in ("key_id", "tenant"):
        if name in fields:
            value = getattr(message, name)
            # A whole key, put where its id belongs, has the shape of a name too.
            plain = _NAME.fullmatch(value) and without_credentials(value) == value
            return value if plain else ""
    return ""
