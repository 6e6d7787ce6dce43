"""Jobs as rows: create, get, list, count, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from hma.errors import AlreadyExists, NotFound, PreconditionFailed, Unavailable
from hma.v1 import job_pb2, task_pb2
from services.meta_agent.store.append import to_row
from services.meta_agent.store.database import Database
from services.meta_agent.store.documents import insert_documents
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.page_token import read_token, write_token
from services.meta_agent.store.reader import READER

JobState = job_pb2.JobState
MAX_TITLE_CHARS = 500
_CREATE_TRIES = 3
# Deleting is one transaction however long the log is.
_DELETE_TIMEOUT = 60.0

_COLUMNS = """
id, tenant, request_id, fingerprint, title, state, state_reason, version, epoch, driver, sealed,
min_reader, deadline, create_time, start_time, end_time, budget_tokens, spent_tokens
"""
_INSERT = """
INSERT INTO job (id, tenant, request_id, fingerprint, title, state, state_reason, version,
                 min_reader, deadline, create_time, budget_tokens, priority)
VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $9, $10, $11, $12)
ON CONFLICT DO NOTHING
"""
_INSERT_EVENT = """
INSERT INTO job_event (job_id, sequence, event_id, type, payload) VALUES ($1, 1, $2, $3, $4)
"""
_SELECT = f"SELECT {_COLUMNS} FROM job "  # noqa: S608 - the columns above
_EXISTING = _SELECT + "WHERE (tenant = $1 AND request_id = $2) OR id = $3"
_GET = _SELECT + "WHERE id = $1 AND ($2::text IS NULL OR tenant = $2)"
_PAGE = (
    _SELECT
    + """
WHERE tenant = $1 AND ($2::smallint[] = '{}' OR state = ANY($2))
  AND ($3::timestamptz IS NULL OR (create_time, id) < ($3, $4::text))
ORDER BY create_time DESC, id DESC LIMIT $5
"""
)
_OPEN_COUNTS = "SELECT state, count(*) AS jobs FROM job WHERE NOT sealed GROUP BY state"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job without its log: what lists and checks need.

    Attributes:
        version: Sequence of the latest event.
        epoch: Raised by every claim.
        driver: Id of the replica that drives it; None when nobody does.
        sealed: Whether the log has ended.

    The others are as in NewJob; start_time is its first claim, end_time its sealing.
    """

    job_id: str
    tenant: str
    request_id: str
    fingerprint: bytes
    title: str
    state: job_pb2.JobState.ValueType
    state_reason: str
    version: int
    epoch: int
    driver: str | None
    sealed: bool
    min_reader: int
    deadline: datetime
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    budget_tokens: int
    spent_tokens: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page of jobs, the newest first.

    Attributes:
        jobs: The rows.
        next_token: For the page after; empty on the last.
    """

    jobs: list[JobRow]
    next_token: str


class Jobs:
    """The rows of all jobs."""

    def __init__(self, database: Database, notifications: Notifications) -> None:
        self._database = database
        self._notifications = notifications

    async def create(
        self,
        job: NewJob,
        first_event: job_pb2.JobEvent,
        documents: Sequence[tuple[task_pb2.DocumentRef, bytes]] = (),
    ) -> tuple[JobRow, bool]:
        """Creates row, first event and documents in one transaction.

        Returns:
            The row, and whether this call made it. A retry with the same request_id and
            fingerprint gets the row of the first call.

        Raises:
            AlreadyExists: The request_id was used for another request.
            Unavailable: The database cannot be reached. Calling again with the same
                job_id or request_id is safe.
        """
        if first_event.job_id != job.job_id or not first_event.event_id:
            raise ValueError("the first event needs an event_id and the job's id")
        tries = 0
        while True:
            tries += 1
            try:
                made = await self._insert(job, first_event, documents)
                row = await self._existing(job)
            except Unavailable:
                if tries >= _CREATE_TRIES:
                    raise
                await asyncio.sleep(0.1 * tries)
                continue
            if row is not None:
                break
            if tries >= _CREATE_TRIES:  # deleted each time before it could be read
                raise Unavailable("The job could not be created; try again.", retry_after=1)
        if row.fingerprint != job.fingerprint:
            raise AlreadyExists(
                f"request_id {job.request_id!r} was used for another request; use a new one."
            )
        if made:
            self._notifications.publish(job.job_id, 1)
            self._notifications.publish_claimable()
        return row, made

    async def get(self, job_id: str, *, tenant: str | None = None) -> JobRow:
        """Reads a row.

        Args:
            job_id: The job.
            tenant: Whose it must be; None for work inside the MetaAgent.

        Raises:
            NotFound: There is no such job, or it is another tenant's.
            Unavailable: The database cannot be reached.
        """
        record = await self._database.fetchrow(_GET, job_id, tenant)
        if record is None:
            raise _not_found(job_id)
        return _row(record)

    async def page(
        self,
        tenant: str,
        *,
        states: Sequence[job_pb2.JobState.ValueType] = (),
        size: int = 50,
        token: str = "",
    ) -> Page:
        """Lists a tenant's jobs, the newest first.

        Args:
            tenant: Whose.
            states: Only these; empty means all.
            size: At most this many.
            token: `next_token` of the page before, made for the same tenant and states.

        Raises:
            InvalidRequest: The token is not one of this list.
            Unavailable: The database cannot be reached.
        """
        filters = (tenant, *sorted(set(states)))
        before, last_id = read_token(token, filters) if token else (None, "")
        records = await self._database.fetch(
            _PAGE, tenant, list(set(states)), before, last_id, size + 1
        )
        jobs = [_row(record) for record in records[:size]]
        more = len(records) > size
        return Page(
            jobs, write_token(jobs[-1].create_time, jobs[-1].job_id, filters) if more else ""
        )

    async def open_counts(self) -> dict[job_pb2.JobState.ValueType, int]:
        """Counts the jobs that have not ended, by state.

        Raises:
            Unavailable: The database cannot be reached.
        """
        records = await self._database.fetch(_OPEN_COUNTS)
        return {record["state"]: record["jobs"] for record in records}

    async def delete(self, job_id: str, *, tenant: str | None = None) -> None:
        """Purges a job that has ended: documents, log and row.

        Raises:
            NotFound: There is no such job, or it is another tenant's.
            PreconditionFailed: It has not ended.
            Unavailable: The database cannot be reached; calling again is safe.
        """
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = {_DELETE_TIMEOUT * 1000:.0f}")
            record = await connection.fetchrow(_GET + " FOR UPDATE", job_id, tenant)
            if record is None:
                raise _not_found(job_id)
            if not record["sealed"]:
                raise PreconditionFailed(
                    f"Job {job_id} has not ended; cancel it first.", reason="JOB_NOT_ENDED"
                )
            for table in ("job_document", "job_event"):
                await connection.execute(
                    f"DELETE FROM {table} WHERE job_id = $1",  # noqa: S608 - names above
                    job_id,
                    timeout=_DELETE_TIMEOUT,
                )
            await connection.execute("DELETE FROM job WHERE id = $1", job_id)

    async def _insert(
        self,
        job: NewJob,
        first_event: job_pb2.JobEvent,
        documents: Sequence[tuple[task_pb2.DocumentRef, bytes]],
    ) -> bool:
        event = to_row(first_event)
        async with self._database.connection() as connection, connection.transaction():
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
            await connection.execute(
                _INSERT_EVENT, job.job_id, event.event_id, event.type, event.payload
            )
            await insert_documents(connection, job.job_id, documents)
        return True

    async def _existing(self, job: NewJob) -> JobRow | None:
        record = await self._database.fetchrow(
            _EXISTING, job.tenant, job.request_id or None, job.job_id
        )
        return _row(record) if record is not None else None


def _row(record: asyncpg.Record) -> JobRow:
    values = dict(record)
    values["job_id"] = values.pop("id")
    values["request_id"] = values["request_id"] or ""
    return JobRow(**values)


def _not_found(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id}.")
