"""Whether a route has room for a call, and for whom it is kept. Pure.

A call begins when there is room for it *besides* what those before it in the route's line
wait for. So whoever is first gets the next room, however much it needs, and whoever
stands behind passes only where that takes nothing from those in front. What a window
counts leaves it within `SPAN`: the first in line waits no longer than that, the one at
place n no longer than n times that.

Calls stand by the time at which they came. An answer's call goes before planning, and
planning before work, as at a model server: its time is earlier by `HEAD_START` for each
step, so that work is not kept out for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

SPAN = 60
"""Seconds that a window is long."""

HEAD_START = 60
"""Seconds in line that a step of priority is worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteLimits:
    """What a route takes in any 60 seconds; 0: any number."""

    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """So many calls, and the tokens that they take together."""

    calls: int = 0
    tokens: int = 0


def never_fits(limits: RouteLimits, tokens: int) -> bool:
    """Whether a call is larger than the whole window."""
    return bool(limits.tokens) and tokens > limits.tokens


def lacking(limits: RouteLimits, use: Load, ahead: Load, tokens: int) -> Load | None:
    """What must leave the window before a call may begin; None: it may begin now.

    Args:
        limits: Of the route.
        use: What the window counts.
        ahead: What those before it in line wait for.
        tokens: Most that the call can take.
    """
    lack = Load(
        use.calls + ahead.calls + 1 - limits.requests if limits.requests else 0,
        use.tokens + ahead.tokens + tokens - limits.tokens if limits.tokens else 0,
    )
    return lack if lack.calls > 0 or lack.tokens > 0 else None
