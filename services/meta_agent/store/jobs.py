"""Jobs as rows: create, get, list, count, delete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from hma.errors import NotFound, PreconditionFailed
from hma.v1 import job_pb2, task_pb2
from services.meta_agent.store import audit
from services.meta_agent.store.creation import Created, create_job, find_created
from services.meta_agent.store.database import Database
from services.meta_agent.store.new_job import NewJob
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.page_token import read_token, write_token
from services.meta_agent.store.purge import purge
from services.meta_agent.store.quota_lock import TenantLocks
from services.meta_agent.store.tombstones import bury, was_deleted_by

JobState = job_pb2.JobState
# Deleting is one transaction however long the log is.
_DELETE_TIMEOUT = 60.0

_COLUMNS = """
id, tenant, request_id, fingerprint, title, state, state_reason, version, epoch, driver, sealed,
min_reader, deadline, create_time, start_time, end_time, budget_tokens, spent_tokens
"""
_SELECT = f"SELECT {_COLUMNS} FROM job "  # noqa: S608 - the columns above
_GET = _SELECT + "WHERE id = $1 AND ($2::text IS NULL OR tenant = $2)"
_PAGE = (
    _SELECT
    + """
WHERE tenant = $1 AND ($2::smallint[] = '{}' OR state = ANY($2))
  AND ($3::timestamptz IS NULL OR (create_time, id) < ($3, $4::text))
ORDER BY create_time DESC, id DESC LIMIT $5
"""
)
_QUEUED = """
SELECT tenant, count(*) AS jobs FROM (
    SELECT tenant FROM job WHERE NOT sealed AND driver IS NULL AND quota_state <> 1 LIMIT $1
) AS queued GROUP BY tenant
"""
_OPEN_COUNTS = "SELECT state, count(*) AS jobs FROM job WHERE NOT sealed GROUP BY state"


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

    def __init__(
        self, database: Database, notifications: Notifications, locks: TenantLocks
    ) -> None:
        self._database = database
        self._notifications = notifications
        self._locks = locks

    async def create(
        self,
        job: NewJob,
        first_event: job_pb2.JobEvent,
        documents: Sequence[tuple[task_pb2.DocumentRef, bytes]] = (),
    ) -> Created:
        """Creates row, first event and documents in one transaction.

        Returns:
            The job. A retry with the same request_id and fingerprint gets that of the
            first call, also when it has ended or was deleted.

        Raises:
            RequestIdReused: The request_id was used for another request.
            QuotaExceeded: The tenant's limits have no room for the job now, and it is
                not one that waits.
            Unavailable: The database cannot be reached. Calling again with the same
                job_id or request_id is safe.
        """
        created = await create_job(self._database, self._locks, job, first_event, documents)
        if created.made:
            for job_id, version in (*created.let_in, (job.job_id, 1)):
                self._notifications.publish(job_id, version)
            self._notifications.publish_claimable()
        return created

    async def knows(self, tenant: str, request_id: str) -> bool:
        """Whether a CreateJob with this id has made a job, deleted ones included.

        Raises:
            Unavailable: The database cannot be reached.
        """
        return await find_created(self._database, tenant, request_id) is not None

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

    async def queued(self, most: int) -> dict[str, int]:
        """Counts the jobs that wait for a driver, by tenant.

        Args:
            most: Counts no further, over all tenants.

        Raises:
            Unavailable: The database cannot be reached.
        """
        return {row["tenant"]: row["jobs"] for row in await self._database.fetch(_QUEUED, most)}

    async def delete(self, job_id: str, *, tenant: str | None = None, request_id: str = "") -> None:
        """Purges a job that has ended: documents, log and row.

        What stays says which requests made and deleted it (`deleted_job`); the same
        request to delete it changes nothing.

        Args:
            job_id: The job.
            tenant: Whose it must be; None for work inside the MetaAgent.
            request_id: The client's id of the request; empty when it gave none.

        Raises:
            NotFound: There is no such job, it is another tenant's, or another request
                has deleted it.
            PreconditionFailed: It has not ended.
            Unavailable: The database cannot be reached; calling again is safe.
        """
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = {_DELETE_TIMEOUT * 1000:.0f}")
            record = await connection.fetchrow(_GET + " FOR UPDATE", job_id, tenant)
            if record is None:
                if await was_deleted_by(connection, job_id, tenant, request_id):
                    return
                raise _not_found(job_id)
            if not record["sealed"]:
                raise PreconditionFailed(
                    f"Job {job_id} has not ended; cancel it first.", reason="JOB_NOT_ENDED"
                )
            await bury(connection, record, request_id)
            await purge(connection, [job_id], timeout=_DELETE_TIMEOUT)
            await audit.write(connection, job_id)
        audit.written()
        self._notifications.publish_deleted(job_id)


def _row(record: asyncpg.Record) -> JobRow:
    values = dict(record)
    values["job_id"] = values.pop("id")
    values["request_id"] = values["request_id"] or ""
    return JobRow(**values)


def _not_found(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id}.")
