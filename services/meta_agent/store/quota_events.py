"""What a job's log says of its tenant's quota."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from hma.v1 import job_pb2
from services.meta_agent.store.ids import new_event_id

MOST_TOKENS = 2**31 - 1


def drawn_event(
    job_id: str,
    *,
    tokens: int,
    total: int,
    price: float,
    now: float,
    epoch: int = 0,
    limit: str = "",
    retry_time: float | None = None,
) -> job_pb2.JobEvent:
    """That a job has drawn tokens, given some back, or found no room.

    Args:
        job_id: The job.
        tokens: Drawn now; below 0: given back.
        total: Drawn so far.
        price: Most money that one of them can cost.
        now: Database time, in seconds since the epoch.
        epoch: Of the driver that drew; 0: nobody drives the job yet.
        limit: The limit that has no room for more.
        retry_time: When it has, as far as known.
    """
    drawn = job_pb2.QuotaDrawn(
        tokens=tokens,
        total_tokens=min(total, MOST_TOKENS),
        cost=tokens * price,
        total_cost=total * price,
        limit=limit,
    )
    if retry_time is not None:
        drawn.retry_time.CopyFrom(_timestamp(retry_time))
    return job_pb2.JobEvent(
        job_id=job_id,
        event_id=new_event_id(),
        time=_timestamp(now),
        epoch=epoch,
        quota_drawn=drawn,
    )


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp
