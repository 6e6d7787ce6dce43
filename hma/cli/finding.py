"""What `hma doctor` says of one thing."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any


class Health(enum.Enum):
    """How something is."""

    GOOD = "good"
    WAITING = "waiting"
    RISKY = "risky"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        health: How it is.
        detail: What was seen.
        remedy: What to do; empty when there is nothing to do.
    """

    name: str
    health: Health
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "health": self.health.value}
