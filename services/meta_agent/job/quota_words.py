"""How a job says that it waits for its tenant's quota."""

from __future__ import annotations

from datetime import UTC, datetime

WAITING = "waits for quota: "


def waiting_reason(limit: str, retry_time: float) -> str:
    """Which limit a job waits for and, as far as known, until when."""
    if not retry_time:
        return f"{WAITING}{limit} has no room"
    when = datetime.fromtimestamp(retry_time, UTC)
    return f"{WAITING}{limit} has room again at {when:%H:%M:%S} UTC"
