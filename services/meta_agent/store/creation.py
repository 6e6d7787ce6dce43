"""Creating jobs, each once: a repeated request finds what the first has made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from hma.errors import AlreadyExists, Unavailable
from hma.v1 import job_pb2, task_pb2
from services.meta_agent.store import audit
from services.meta_agent.store.append import to_row
from services.meta_agent.store.database import Database
from services.meta_agent.store.documents import insert_documents
from services.meta_agent.store.reader import READER
from services.meta_agent.store.tombstones import Made, find_made, request_key

MAX_TITLE_CHARS = 500
_TRIES = 3

_INSERT = """
INSERT INTO job (id, tenant, request_id, fingerprint, title, state, state_reason, version,
                 min_reader, deadline, create_time, budget_tokens, priority)
VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $9, $10, $11, $12)
ON CONFLICT DO NOTHING
"""
# Looks for a deleted job of the same request only now: whoever deleted it has committed,
# or its row would have been in the way of this one's.
_INSERT_EVENT = """
INSERT INTO job_event (job_id, sequence, event_id, type, payload)
SELECT $1, 1, $2, $3, $4
WHERE NOT EXISTS (SELECT FROM deleted_job WHERE tenant = $5 AND create_request = $6)
"""
_EXISTING = """
SELECT id, fingerprint, state FROM job WHERE (tenant = $1 AND request_id = $2) OR id = $3
"""


class RequestIdReused(AlreadyExists):
    """A CreateJob has used the request_id before, for another job.

    Attributes:
        job_id: The job that it made.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(f"The request_id was used for another request, which made {job_id}.")
        self.job_id = job_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be created.

    Attributes:
        job_id: `ids.new_job_id()`.
        tenant: Whose it is.
        request_id: The client's id of the request; empty when it gave none.
        fingerprint: Hash of the request: the same request_id with another one is refused.
        title: The description; its first 500 characters are kept for lists.
        create_time: When it was accepted, by database time, with zone.
        deadline: When the answer must be there, by database time, with zone.
        budget_tokens: What it may spend.
        state: Where it starts.
        state_reason: Why it is there.
        min_reader: Lowest reader version that can fold its log.
        priority: Of its tenant's jobs, higher ones are claimed first; -100 to 100.
    """

    job_id: str
    tenant: str
    request_id: str
    fingerprint: bytes
    title: str
    create_time: datetime
    deadline: datetime
    budget_tokens: int
    state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_QUEUED
    state_reason: str = ""
    min_reader: int = READER
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Created:
    """The job that a request has made, now or before.

    Attributes:
        job_id: Its id.
        state: Where it is; where it ended when it was deleted.
        made: This call made it.
    """

    job_id: str
    state: job_pb2.JobState.ValueType
    made: bool


async def create_job(
    database: Database,
    job: NewJob,
    first_event: job_pb2.JobEvent,
    documents: Sequence[tuple[task_pb2.DocumentRef, bytes]],
) -> Created:
    """Creates a job; see `Jobs.create`."""
    if first_event.job_id != job.job_id or not first_event.event_id:
        raise ValueError("the first event needs an event_id and the job's id")
    tries = 0
    while True:
        tries += 1
        try:
            made = await _insert(database, job, first_event, documents)
            found = await find_created(database, job.tenant, job.request_id, job.job_id)
        except Unavailable:
            if tries >= _TRIES:
                raise
            await asyncio.sleep(0.1 * tries)
            continue
        if found is not None:
            break
        if tries >= _TRIES:  # deleted each time before it could be read
            raise Unavailable("The job could not be created; try again.", retry_after=1)
    if found.fingerprint != job.fingerprint:
        raise RequestIdReused(found.job_id)
    return Created(found.job_id, found.state, made)


async def find_created(
    database: Database, tenant: str, request_id: str, job_id: str = ""
) -> Made | None:
    """What a request has made, deleted or not.

    Args:
        database: Where the jobs are.
        tenant: Whose.
        request_id: The client's id of the request; empty when it gave none.
        job_id: The job that it would make.

    Raises:
        Unavailable: The database cannot be reached.
    """
    record = await database.fetchrow(_EXISTING, tenant, request_id or None, job_id)
    if record is not None:
        return Made(*record)
    return await find_made(database, tenant, request_id) if request_id else None


class _WasDeletedError(Exception):
    """The job that the request has made was deleted: the transaction is taken back."""


async def _insert(
    database: Database,
    job: NewJob,
    first_event: job_pb2.JobEvent,
    documents: Sequence[tuple[task_pb2.DocumentRef, bytes]],
) -> bool:
    """Whether the job was made; not when the request has made one before."""
    event = to_row(first_event)
    try:
        async with database.connection() as connection, connection.transaction():
            done = await connection.execute(
                _INSERT,
                job.job_id,
                job.tenant,
                job.request_id or None,
                job.fingerprint,
                job.title.replace("\0", "")[:MAX_TITLE_CHARS],
                job.state,
                job.state_reason,
                job.min_reader,
                job.deadline,
                job.create_time,
                job.budget_tokens,
                job.priority,
            )
            if done == "INSERT 0 0":
                return False
            done = await connection.execute(
                _INSERT_EVENT,
                job.job_id,
                event.event_id,
                event.type,
                event.payload,
                job.tenant,
                request_key(job.request_id),
            )
            if done == "INSERT 0 0":
                raise _WasDeletedError
            await insert_documents(connection, job.job_id, documents)
            await audit.write(connection, job.job_id)
    except _WasDeletedError:
        return False
    audit.written()
    return True
