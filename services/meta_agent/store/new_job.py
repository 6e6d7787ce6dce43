"""A job to be created, and the rows that it begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from hma.v1 import job_pb2
from services.meta_agent.store.append import to_row
from services.meta_agent.store.database import Connection
from services.meta_agent.store.quota_buckets import bucketing
from services.meta_agent.store.quota_lock import sharing
from services.meta_agent.store.reader import READER
from services.meta_agent.store.tombstones import request_key

MAX_TITLE_CHARS = 500

WAITS_FOR_QUOTA = "waits for its tenant's quota"

# A job that was accepted counts in its tenant's buckets in this very commit. Without the
# tenant's lock it is let in only beside nobody who sets limits (`quota_lock`).
_INSERT = f"""
WITH unlimited AS MATERIALIZED (
    SELECT CASE WHEN NOT $18::bool THEN {sharing("$2")}::text END
), made AS (
    INSERT INTO job (id, tenant, request_id, fingerprint, title, state, state_reason, version,
                     min_reader, deadline, create_time, budget_tokens, priority, quota_price,
                     quota_state, quota_drawn, quota_tasks, quota_least, accept_time)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
           $15::smallint, $16, $17, $19,
           CASE WHEN $15::smallint = 0 THEN clock_timestamp() END
    FROM unlimited
    WHERE $18::bool OR NOT EXISTS (
        SELECT FROM tenant_quota WHERE tenant = $2 AND limits <> '{{}}'::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING tenant, accept_time
), bucketed AS {
    bucketing("SELECT tenant, 1, 0, 0.0, accept_time FROM made WHERE accept_time IS NOT NULL")
}
SELECT (SELECT count(*) FROM made) AS made,
       EXISTS (SELECT FROM tenant_quota
               WHERE tenant = $2 AND limits <> '{{}}'::jsonb) AS limited
"""  # noqa: S608 - a fixed text
# Looks only now, when others can change neither any more. For a deleted job of the same
# request: whoever deleted it has committed, or its row would have been in the way of this
# one's. For limits: whoever set them has committed, or waits for this one's commit.
_INSERT_EVENT = """
WITH found AS MATERIALIZED (
    SELECT EXISTS (
        SELECT FROM deleted_job WHERE tenant = $6 AND create_request = $7) AS deleted,
    NOT $8::bool AND EXISTS (
        SELECT FROM tenant_quota WHERE tenant = $6 AND limits <> '{}'::jsonb) AS limited
), written AS (
    INSERT INTO job_event (job_id, sequence, event_id, type, payload)
    SELECT $1, e.*
    FROM found, unnest($2::int[], $3::text[], $4::text[], $5::bytea[]) AS e
    WHERE NOT deleted AND NOT limited
)
SELECT deleted, limited FROM found
"""


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
        priority: Moves its turn among its tenant's jobs; -100 to 100.
        least_tokens: Tokens below which beginning is of no use.
        token_price: Most money that one of its tokens can cost.
        waits: It waits when its tenant's limits have no room for it now; else it is
            refused.
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
    least_tokens: int = 1
    token_price: float = 0.0
    waits: bool = False


class WasDeletedError(Exception):
    """The job that the request has made was deleted: the transaction is taken back."""


class IsLimitedError(Exception):
    """The tenant has limits: what was written without its lock is taken back."""


async def insert_row(
    connection: Connection,
    job: NewJob,
    version: int,
    *,
    locked: bool,
    waits: bool = False,
    drawn: int | None = None,
    tasks: int | None = None,
) -> tuple[bool, bool]:
    """Writes the row; whether that was done, and whether the tenant has limits.

    Args:
        connection: In the transaction that makes the job.
        job: The job.
        version: Of its log, with the events that `insert_events` writes.
        locked: The tenant's lock is held; else the row is written only without limits.
        waits: It is not accepted yet.
        drawn: Tokens that it has drawn; None: it spends its budget.
        tasks: Places at Workers that it has drawn; None: any number.
    """
    row = await connection.fetchrow(
        _INSERT,
        job.job_id,
        job.tenant,
        job.request_id or None,
        job.fingerprint,
        job.title.replace("\0", "")[:MAX_TITLE_CHARS],
        job.state,
        WAITS_FOR_QUOTA if waits else job.state_reason,
        version,
        job.min_reader,
        job.deadline,
        job.create_time,
        job.budget_tokens,
        job.priority,
        job.token_price,
        int(waits),
        drawn,
        tasks,
        locked,
        job.least_tokens,
    )
    return (bool(row["made"]), bool(row["limited"])) if row is not None else (False, False)


async def insert_events(
    connection: Connection, job: NewJob, events: Sequence[job_pb2.JobEvent], *, locked: bool
) -> None:
    """Writes the log's beginning.

    Raises:
        WasDeletedError: A job of the same request was deleted.
        IsLimitedError: The tenant, whose lock is not held, has limits.
    """
    rows = [to_row(event) for event in events]
    found = await connection.fetchrow(
        _INSERT_EVENT,
        job.job_id,
        list(range(1, len(rows) + 1)),
        [row.event_id for row in rows],
        [row.type for row in rows],
        [row.payload for row in rows],
        job.tenant,
        request_key(job.request_id),
        locked,
    )
    if found is None or found["deleted"]:
        raise WasDeletedError
    if found["limited"]:
        raise IsLimitedError
