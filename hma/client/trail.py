"""The question about the audit trail. Pure."""

from __future__ import annotations

from hma.client.periods import MomentLike, moment
from hma.v1 import admin_pb2

PAGE = 500
"""Entries per call."""


def audit_question(
    *,
    tenant: str = "",
    job_id: str = "",
    refused: bool = False,
    since: MomentLike | None = None,
) -> admin_pb2.ListAuditEntriesRequest:
    """The request for the first page; `hma.Client.audit` says what each argument means.

    Raises:
        InvalidRequest: `since` is no time.
    """
    request = admin_pb2.ListAuditEntriesRequest(tenant=tenant, job_id=job_id, refused_only=refused)
    if since is not None:
        request.start_time.FromDatetime(moment(since, "since"))
    return request
