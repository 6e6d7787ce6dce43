"""What a caller is told when a limit has no room: which, how full, and until when."""

from __future__ import annotations

from hma.errors import QuotaExceeded
from services.meta_agent.store.database import Connection
from services.meta_agent.store.quota_admission import Verdict
from services.meta_agent.store.quota_limits import WINDOWS, Limits
from services.meta_agent.store.quota_use import Use, when_free

LOOK_AGAIN = 2.0
"""Seconds after which those look again whose limit does not free by time alone."""


async def free_time(connection: Connection, tenant: str, verdict: Verdict) -> float | None:
    """When the limit that is in the way has room by time alone; None: that is not known.

    Returns:
        Seconds since the epoch, by database time.
    """
    window = WINDOWS.get(verdict.full)
    if window is None or verdict.hopeless:
        return None
    return await when_free(connection, tenant, window, verdict.lacking)


def refusal(
    tenant: str,
    limits: Limits,
    use: Use,
    verdict: Verdict,
    free: float | None,
    *,
    kept: float = 0.0,
) -> QuotaExceeded:
    """The error for a job that is not accepted.

    Args:
        tenant: Whose.
        limits: Its limits.
        use: What it uses, with what is kept.
        verdict: What is in the way.
        free: When there is room by time alone, as far as known.
        kept: What of that limit is not used, but kept for a job that came before.
    """
    name, limit, used = verdict.full, limits[verdict.full], use.used(verdict.full)
    retry_after: float | None = LOOK_AGAIN
    if free is not None:
        retry_after = max(free - use.now, 0.001)
    elif verdict.hopeless:
        retry_after = None
    words = f"The tenant's limit {name} is {limit:,.6g}, and {used - kept:,.6g} of it are used"
    if kept > 0:
        words += f"; a job that came before waits for {kept:,.6g}"
    if verdict.hopeless:
        words += ": it is too small for this job"
    elif used <= limit - 1:
        words += ": too little is left for this job"
    return QuotaExceeded(
        f"{words}.",
        subject=f"tenant:{tenant}/{name}",
        retry_after=retry_after,
        limit=limit,
        remaining=max(limit - used, 0.0),
    )
