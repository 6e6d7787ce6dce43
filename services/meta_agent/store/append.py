"""Appends of drivers: what one is, and the one statement that writes a batch of them.

The fence is the epoch (docs/adr: the job log). An append whose job has another epoch
or is sealed finds no row: that is an answer for this append, never an error of the
batch it travels in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hma.errors import Fenced, HmaError
from hma.v1 import job_pb2
from services.meta_agent.store.database import Connection
from services.meta_agent.store.ledger import booking, booking_arrays
from services.meta_agent.store.quota_buckets import bucketing
from services.meta_agent.store.reader import READER

JobEvent = job_pb2.JobEvent
MAX_REASON_CHARS = 1_000


class VersionMoved(HmaError):
    """Sealing found events that its caller has not read.

    Attributes:
        version: The log's version now.
    """

    reason = "VERSION_MOVED"

    def __init__(self, version: int) -> None:
        super().__init__(f"The log has moved to {version}; read it and decide again.")
        self.version = version


@dataclass(frozen=True, slots=True)
class JobSummary:
    """What lists show of a job: a copy, in its row, of what the log says.

    Attributes:
        state: Where the job is.
        state_reason: Why, in words; cut at 1,000 characters.
        spent_tokens: Tokens settled; None leaves the row's figure.
        budget_tokens: Tokens it may spend, top-ups included; None leaves the row's.
    """

    state: job_pb2.JobState.ValueType
    state_reason: str = ""
    spent_tokens: int | None = None
    budget_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """Events that a job's driver has decided.

    Attributes:
        job_id: The job.
        epoch: The epoch under which the caller drives it.
        events: At least one; each with an `event_id` of its own and no sequence.
        summary: Copied into the job's row when given.
        seal: These are the job's last events.
        expected_version: With `seal`: the version the caller has read up to.
        min_reader: Lowest reader version that can fold these events.
        lost_tokens: With `seal`: tokens that may have been spent, and that nobody will
            ever report: they count as used from now on.
        lost_cost: Most money that they can have cost.
    """

    job_id: str
    epoch: int
    events: Sequence[JobEvent]
    summary: JobSummary | None = None
    seal: bool = False
    expected_version: int | None = None
    min_reader: int = READER
    lost_tokens: int = 0
    lost_cost: float = 0.0

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError("an append needs at least one event")
        if any(not e.event_id or e.job_id != self.job_id for e in self.events):
            raise ValueError("each event needs an event_id and the append's job_id")
        if self.seal != (self.expected_version is not None):
            raise ValueError("expected_version goes with seal, and only with it")


Outcome = int | Fenced | VersionMoved
"""What became of one append: the version after it, or why it was refused."""


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it is stored."""

    event_id: str
    type: str
    payload: bytes


def to_row(event: JobEvent) -> Row:
    """Serialises an event. The sequence is a column: the payload stays as it was decided."""
    if event.sequence:
        bare = JobEvent()
        bare.CopyFrom(event)
        bare.sequence = 0
        event = bare
    return Row(event.event_id, event.WhichOneof("payload") or "", event.SerializeToString())


def from_row(sequence: int, payload: bytes) -> JobEvent:
    """Parses a stored event and fills in its sequence."""
    event = JobEvent.FromString(payload)
    event.sequence = sequence
    return event


# One statement, one round trip, one commit. Locks are taken in the order of ids, so
# two replicas never wait for each other in a circle; after a wait PostgreSQL checks
# epoch and sealed again on the row's latest version, and the update adds to that
# version. `before` and `after` come from under the lock. What is booked anew raises the
# job's settled tokens and its tenant's buckets in this very commit: what a job holds of
# its tenant's windows becomes what is used of them, and is never in both or in neither.
_WRITE_BATCH = f"""
WITH wanted AS (
    SELECT * FROM unnest(
        $1::text[], $2::bigint[], $3::int[], $4::int[], $5::bool[],
        $6::smallint[], $7::text[], $8::int[], $9::int[], $10::int[], $11::bigint[], $12::float8[]
    ) AS w (id, epoch, events, expected, seal, state, state_reason, spent, budget, min_reader,
            lost, lost_cost)
), locked AS (
    SELECT w.*, j.tenant, j.version AS before
    FROM wanted w
    JOIN job j ON j.id = w.id AND j.epoch = w.epoch AND NOT j.sealed
    ORDER BY j.id
    FOR UPDATE OF j
), taken AS (
    SELECT * FROM locked WHERE expected IS NULL OR before = expected
), {booking(18, "taken")}, lost AS (
    INSERT INTO quota_loss (job_id, tenant, tokens, cost, seal_time)
    SELECT id, tenant, lost, lost_cost, clock_timestamp() FROM taken WHERE seal AND lost > 0
    ON CONFLICT DO NOTHING
    RETURNING tenant, tokens, cost, seal_time AS time
), bucketed AS {
    bucketing(
        "SELECT tenant, 0, tokens, cost, time FROM booked "
        "UNION ALL SELECT tenant, 0, tokens, cost, time FROM lost"
    )
}
, changed AS (
    SELECT t.*, coalesce(s.tokens, 0) AS settled FROM taken t LEFT JOIN settled s ON s.job_id = t.id
), moved AS (
    UPDATE job j SET
        version = j.version + c.events,
        sealed = c.seal,
        end_time = CASE WHEN c.seal THEN clock_timestamp() END,
        driver = CASE WHEN c.seal THEN NULL ELSE j.driver END,
        state = coalesce(c.state, j.state),
        state_reason = coalesce(c.state_reason, j.state_reason),
        spent_tokens = coalesce(c.spent, j.spent_tokens),
        settled_tokens = j.settled_tokens + c.settled,
        -- A budget only grows; by what the driver has not read yet, too.
        budget_tokens = greatest(c.budget, j.budget_tokens),
        min_reader = greatest(j.min_reader, c.min_reader)
    FROM changed c
    WHERE j.id = c.id
    RETURNING j.id, j.version AS after
), inserted AS (
    INSERT INTO job_event (job_id, sequence, event_id, type, payload)
    SELECT t.id, t.before + e.place, e.event_id, e.type, e.payload
    FROM unnest($13::text[], $14::int[], $15::text[], $16::text[], $17::bytea[])
        AS e (id, place, event_id, type, payload)
    JOIN taken t ON t.id = e.id
)
SELECT l.id, l.before, m.after FROM locked l LEFT JOIN moved m ON m.id = l.id
"""  # noqa: S608 - a fixed text

_WAIT_FOR_WRITERS = "SELECT FROM job WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"

_FIND_LAST = """
SELECT e.job_id, e.sequence
FROM unnest($1::text[], $2::text[]) AS w (id, event_id)
JOIN job_event e ON e.job_id = w.id AND e.event_id = w.event_id
"""


async def write_batch(connection: Connection, batch: Sequence[Append]) -> list[Outcome]:
    """Writes appends of different jobs in one statement.

    Args:
        connection: Not in a transaction.
        batch: At most one append per job.

    Returns:
        What became of each, in order.

    Raises:
        asyncpg.PostgresError, OSError: Nothing was written; after a failure of the
            connection that is not known (`find_written`).
    """
    summaries = [a.summary for a in batch]
    rows = [(a.job_id, place, to_row(e)) for a in batch for place, e in enumerate(a.events, 1)]
    found = await connection.fetch(
        _WRITE_BATCH,
        [a.job_id for a in batch],
        [a.epoch for a in batch],
        [len(a.events) for a in batch],
        [a.expected_version for a in batch],
        [a.seal for a in batch],
        [s and s.state for s in summaries],
        # PostgreSQL's text cannot hold NUL; one bad reason must not fail the batch.
        [s and s.state_reason.replace("\0", "")[:MAX_REASON_CHARS] for s in summaries],
        [s and s.spent_tokens for s in summaries],
        [s and s.budget_tokens for s in summaries],
        [a.min_reader for a in batch],
        [a.lost_tokens for a in batch],
        [a.lost_cost for a in batch],
        [job_id for job_id, _, _ in rows],
        [place for _, place, _ in rows],
        [row.event_id for _, _, row in rows],
        [row.type for _, _, row in rows],
        [row.payload for _, _, row in rows],
        *booking_arrays(event for append in batch for event in append.events),
    )
    versions = {r["id"]: (r["before"], r["after"]) for r in found}
    return [_outcome(a, versions.get(a.job_id)) for a in batch]


async def find_written(connection: Connection, batch: Sequence[Append]) -> list[int | None]:
    """Finds out which appends of a batch took effect, after its reply was lost.

    The server may still be at work on the lost statement: locking the rows waits for
    it. Should it arrive even later, the unique event ids stop it as a whole.

    Returns:
        For each append the version right after it, or None when it is not in the log.
    """
    async with connection.transaction():
        await connection.execute(_WAIT_FOR_WRITERS, [a.job_id for a in batch])
        found = await connection.fetch(
            _FIND_LAST, [a.job_id for a in batch], [a.events[-1].event_id for a in batch]
        )
    versions = {r["job_id"]: r["sequence"] for r in found}
    return [versions.get(a.job_id) for a in batch]


def _outcome(append: Append, versions: tuple[int, int | None] | None) -> Outcome:
    if versions is None:
        return Fenced(f"Job {append.job_id} is sealed, gone, or driven under a later epoch.")
    before, after = versions
    return VersionMoved(before) if after is None else after
