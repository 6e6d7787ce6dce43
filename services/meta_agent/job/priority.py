"""What a job's priority is worth among its tenant's jobs.

Wherever a tenant's jobs stand in line, they stand by their *turn*: the time at which they
came, moved forward by `HMA_PRIORITY_AGEING` for each step of priority. That is the order
by a priority that rises by a step in that time, and it never changes while they wait: who
came earlier, and who will still come, decide how long a job waits at most, and however
many urgent jobs come, each job's turn comes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

STEP = 25.0
"""Points of priority: so much more, twice the share of a tenant's places."""

AGEING = 60.0
"""Seconds that a step is worth in line, by default."""


def point_worth(ageing: float) -> timedelta:
    """How much earlier a job's turn is for each point of its priority.

    Args:
        ageing: Seconds that a step is worth.
    """
    return timedelta(seconds=ageing / STEP)


def turn(create_time: datetime, priority: int, ageing: float) -> datetime:
    """A job's turn: whose is earlier comes first.

    Args:
        create_time: When the job came.
        priority: Its own, -100 to 100.
        ageing: Seconds that a step is worth.
    """
    return create_time - priority * point_worth(ageing)
