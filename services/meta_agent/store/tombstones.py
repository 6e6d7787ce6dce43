"""What is left of deleted jobs, so that a repeated request is answered as the first was."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import asyncpg

from hma.v1 import job_pb2
from services.meta_agent.store.database import Connection, Database

_MADE_BY = """
SELECT job_id, fingerprint, state FROM deleted_job WHERE tenant = $1 AND create_request = $2
"""
_DELETED_BY = """
SELECT FROM deleted_job
WHERE job_id = $1 AND ($2::text IS NULL OR tenant = $2) AND delete_request = $3
"""
_BURY = """
INSERT INTO deleted_job (job_id, tenant, create_request, fingerprint, delete_request, state)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Made:
    """A job that a CreateJob has made; it may be deleted.

    Attributes:
        job_id: Its id.
        fingerprint: Hash of the request that made it.
        state: Where it is, or ended.
    """

    job_id: str
    fingerprint: bytes
    state: job_pb2.JobState.ValueType


def request_key(request_id: str | None) -> bytes | None:
    """What is kept of a request's id, which is a client's text; None for none."""
    return hashlib.sha256(request_id.encode()).digest() if request_id else None


async def bury(connection: Connection, row: asyncpg.Record, request_id: str) -> None:
    """Notes that a job is deleted.

    Args:
        connection: In the transaction that deletes it.
        row: The job's row.
        request_id: Of the request to delete it; empty when it had none.
    """
    await connection.execute(
        _BURY,
        row["id"],
        row["tenant"],
        request_key(row["request_id"]),
        row["fingerprint"],
        request_key(request_id),
        row["state"],
    )


async def find_made(database: Database, tenant: str, request_id: str) -> Made | None:
    """The deleted job that a CreateJob with this id had made; None when there is none.

    Raises:
        Unavailable: The database cannot be reached.
    """
    record = await database.fetchrow(_MADE_BY, tenant, request_key(request_id))
    return Made(*record) if record is not None else None


async def was_deleted_by(
    connection: Connection, job_id: str, tenant: str | None, request_id: str
) -> bool:
    """Whether this very request has deleted the job.

    Args:
        connection: Any.
        job_id: The job.
        tenant: Whose it must have been; None for any.
        request_id: Of the request; empty is none, and has deleted nothing.
    """
    key = request_key(request_id)
    return key is not None and (
        await connection.fetchrow(_DELETED_BY, job_id, tenant, key) is not None
    )
