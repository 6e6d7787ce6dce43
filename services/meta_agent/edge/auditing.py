"""Reading the audit trail: who may, and what of it."""

from __future__ import annotations

from datetime import UTC

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp

from hma.rpc.validation import Violations, check
from hma.v1 import admin_pb2
from services.meta_agent.access.caller import Caller, CallerRole, current_caller
from services.meta_agent.edge.validation import check_time
from services.meta_agent.store.audit import AuditBook, AuditQuery

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
ALL = "*"


class AuditReading:
    """Serves ListAuditEntries to whoever calls (`current_caller`)."""

    def __init__(self, book: AuditBook) -> None:
        """Reads nothing yet."""
        self._book = book

    async def list_entries(
        self, request: admin_pb2.ListAuditEntriesRequest
    ) -> admin_pb2.ListAuditEntriesResponse:
        """Answers with a page of the trail; raises as `list_entries`, and Unauthenticated."""
        return await list_entries(self._book, request, current_caller())


async def list_entries(
    book: AuditBook, request: admin_pb2.ListAuditEntriesRequest, caller: Caller
) -> admin_pb2.ListAuditEntriesResponse:
    """A page of the trail, the latest first.

    Args:
        book: The trail.
        request: What of it. The tenant "*" is all, strangers included.
        caller: ADMIN for its own tenant's, OPERATOR for any.

    Raises:
        InvalidRequest: The request is at fault.
        PermissionDenied: The caller may not read this.
        Unavailable: The database cannot be reached.
    """
    tenant = request.tenant or caller.tenant
    own = tenant == caller.tenant
    caller.require(CallerRole.CALLER_ROLE_ADMIN if own else CallerRole.CALLER_ROLE_OPERATOR)
    _check(request)
    start = request.start_time.ToDatetime(tzinfo=UTC) if request.HasField("start_time") else None
    page = await book.page(
        AuditQuery(
            tenant=None if tenant == ALL else tenant,
            resource=request.job_id,
            refused_only=request.refused_only,
            start=start,
            size=request.page_size or DEFAULT_PAGE_SIZE,
            token=request.page_token,
        )
    )
    return admin_pb2.ListAuditEntriesResponse(
        entries=[_entry(row) for row in page.rows], next_page_token=page.next_token
    )


def _check(request: admin_pb2.ListAuditEntriesRequest) -> None:
    faults = Violations(check(request))
    if not 0 <= request.page_size <= MAX_PAGE_SIZE:
        faults.add(
            "page_size",
            f"must be 0 (for {DEFAULT_PAGE_SIZE}) to {MAX_PAGE_SIZE:,}, is {request.page_size:,}",
        )
    for name in ("tenant", "job_id"):
        if not getattr(request, name).isprintable():
            faults.add(name, "must not hold control characters")
    if request.HasField("start_time"):
        check_time("start_time", request.start_time, faults)
    faults.raise_if_any()


def _entry(row: asyncpg.Record) -> admin_pb2.AuditEntry:
    values = dict(row)
    time = Timestamp()
    time.FromDatetime(values.pop("time"))
    return admin_pb2.AuditEntry(entry_id=values.pop("id"), time=time, **values)
