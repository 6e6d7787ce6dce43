"""Who drives a job: claim, release."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from services.meta_agent.job.priority import AGEING, point_worth
from services.meta_agent.store.database import Database
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.reader import READER

LEASE = 3.0
"""Seconds after its last beat for which a replica keeps its jobs."""

SOON = timedelta(seconds=60)
"""A driver that is lost within this time of its claim may have been lost by the job."""

OVERDUE = timedelta(seconds=2)
"""How near its deadline a job is overdue: there is no time left to work on it."""

# Tenants take turns: a tenant's next job stands behind so many others as its jobs that
# are driven, and those of its own whose turn is earlier (`job.priority`).
#
# Candidates come from the statement's snapshot, without a lock. Under the lock only
# the epoch is compared: whoever claimed the job since has raised it. A job that waits
# for its tenant's quota is left alone until there is nothing to do but to end it.
# (Asking again
# under the lock whether the driver is alive would not do: PostgreSQL then checks the
# job's new row against the replica row it had joined before.)
_CLAIM = """
WITH driven AS MATERIALIZED (
    SELECT tenant, count(*) AS jobs FROM job WHERE NOT sealed AND driver IS NOT NULL GROUP BY tenant
), candidate AS MATERIALIZED (
    SELECT j.id, j.epoch, j.create_time,
           coalesce(d.jobs, 0) + row_number() OVER (
               PARTITION BY j.tenant
               ORDER BY j.create_time - j.priority * $9::interval, j.create_time
           ) AS place
    FROM job j
    LEFT JOIN driven d ON d.tenant = j.tenant
    LEFT JOIN replica r ON r.id = j.driver AND r.beat > clock_timestamp() - $4::interval
    WHERE NOT j.sealed AND j.min_reader <= $3
      AND (r.id IS NULL OR (j.driver = $1 AND j.id <> ALL ($5::text[])))
      AND EXISTS (SELECT FROM replica WHERE id = $1 AND beat > clock_timestamp() - $4::interval)
      AND (j.claim_after IS NULL OR j.claim_after <= clock_timestamp())
      AND (j.quota_state <> 1 OR j.deadline <= clock_timestamp() + $7::interval)
      AND ($6::interval IS NULL OR j.deadline <= clock_timestamp() + $6::interval)
    ORDER BY place, j.create_time
    LIMIT $2 * 4
), locked AS MATERIALIZED (
    SELECT j.id, nullif(j.driver, $1) AS lost
    FROM candidate c JOIN job j ON j.id = c.id AND j.epoch = c.epoch
    WHERE NOT j.sealed
    ORDER BY c.place, c.create_time
    LIMIT $2
    FOR UPDATE OF j SKIP LOCKED
)
UPDATE job j SET driver = $1, epoch = j.epoch + 1, claim_after = NULL,
                 claim_time = clock_timestamp(),
                 lost_drivers = CASE
                     WHEN l.lost IS NULL THEN j.lost_drivers
                     WHEN j.claim_time > clock_timestamp() - $8::interval THEN j.lost_drivers + 1
                     ELSE 1 END,
                 quota_state = CASE WHEN j.quota_state = 1 THEN 2 ELSE j.quota_state END,
                 start_time = coalesce(j.start_time, clock_timestamp())
FROM locked l WHERE j.id = l.id
RETURNING j.id, j.epoch, j.version, j.failed_claims,
          CASE WHEN l.lost IS NULL THEN 0 ELSE j.lost_drivers END AS lost_drivers,
          j.deadline <= clock_timestamp() + $7::interval AS overdue,
          j.quota_tasks, j.quota_state
"""

# Whatever the reason for a delay is, the job is ended in its time.
_RELEASE = """
UPDATE job SET driver = NULL,
               claim_after = least(clock_timestamp() + $3::interval,
                                   greatest(deadline - $6::interval, clock_timestamp())),
               quota_tasks = CASE WHEN $7 THEN least(quota_tasks, 0) ELSE quota_tasks END,
               failed_claims = coalesce($4, failed_claims),
               lost_drivers = CASE WHEN $5 THEN lost_drivers ELSE 0 END
WHERE id = $1 AND epoch = $2 AND NOT sealed
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that the caller drives now.

    Attributes:
        job_id: The job.
        epoch: What its appends must carry.
        version: The log's version at the claim.
        failed: How often in a row its driver has failed by a defect before.
        lost: How often in a row its driver was lost with its process, soon after it had
            claimed the job, the last time just now; 0 when this claim follows no loss.
        overdue: There is no time left to work on it: all there is to do is to end it.
        places: Tasks that it may have at Workers; None when its tenant has no limit.
        accepted: Its tenant's quota has had room for it; else it is only to be ended.
    """

    job_id: str
    epoch: int
    version: int
    failed: int = 0
    lost: int = 0
    overdue: bool = False
    places: int | None = None
    accepted: bool = True


class Claims:
    """Takes jobs that nobody drives: new ones, released ones, those of dead replicas."""

    def __init__(
        self,
        database: Database,
        notifications: Notifications,
        *,
        reader: int = READER,
        lease: float = LEASE,
        ageing: float = AGEING,
    ) -> None:
        """Nothing runs yet.

        Args:
            database: Where the jobs are.
            notifications: Told about released jobs.
            reader: The reader version of this release: logs that need a later one are
                left to those who can fold them.
            lease: Seconds for which a replica without a beat keeps its jobs.
            ageing: Seconds that a step of priority is worth.
        """
        self._database = database
        self._notifications = notifications
        self._reader = reader
        self._lease = timedelta(seconds=lease)
        self._point = point_worth(ageing)

    async def claim(
        self,
        replica_id: str,
        limit: int = 16,
        *,
        driving: Collection[str],
        overdue_only: bool = False,
    ) -> list[Claimed]:
        """Claims jobs for a replica that beats: tenants in turn, of each the first in line.

        One call at a time per replica. A job that is the replica's by its row but not
        in `driving` is claimed again: the reply of an earlier claim, or a release, was
        lost.

        Args:
            replica_id: Who will drive them.
            limit: At most this many. Fewer may come although there are more, when
                another replica claims at the same time.
            driving: Ids of all jobs that the replica drives now.
            overdue_only: Only jobs whose time is up: all there is to do is to end them.

        Raises:
            Unavailable: The database cannot be reached; calling again is safe.
        """
        rows = await self._database.fetch(
            _CLAIM,
            replica_id,
            limit,
            self._reader,
            self._lease,
            list(driving),
            OVERDUE if overdue_only else None,
            OVERDUE,
            SOON,
            self._point,
        )
        return [
            Claimed(
                row["id"],
                row["epoch"],
                row["version"],
                row["failed_claims"],
                row["lost_drivers"],
                row["overdue"],
                row["quota_tasks"],
                row["quota_state"] == 0,
            )
            for row in rows
        ]

    async def release(
        self,
        job_id: str,
        epoch: int,
        *,
        delay: float = 0.0,
        failed: int | None = None,
        suspect: bool = False,
        idle: bool = False,
    ) -> None:
        """Gives a job back for any replica to claim. Without effect under a later epoch.

        Args:
            job_id: The job.
            epoch: The epoch under which the caller drives it.
            delay: Seconds in which nobody claims it.
            failed: How often in a row its driver has failed by a defect; None leaves that.
            suspect: It may have been the job that its drivers were lost by: the count goes on.
            idle: It has no task at a Worker: its places are its tenant's again.

        Raises:
            Unavailable: The database cannot be reached; calling again is safe.
        """
        await self._database.execute(
            _RELEASE, job_id, epoch, timedelta(seconds=delay), failed, suspect, OVERDUE, idle
        )
        if delay <= 0:
            self._notifications.publish_claimable()
