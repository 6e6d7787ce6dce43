"""What goes wrong, and when: decided by a seed before anything runs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "pause", "stop"]
"""kill: SIGKILL (PostgreSQL: an immediate shutdown). pause: SIGSTOP, then SIGCONT.
stop: SIGTERM. What has ended is started again."""

TARGETS = {
    "meta-agent-1": 4,
    "meta-agent-2": 4,
    "worker-1": 3,
    "worker-2": 3,
    "analyst": 2,
    "reducer-1": 2,
    "reducer-2": 2,
    "gateway": 2,
    "database": 2,
    "model": 2,
}
"""The processes that faults meet, and how often, relative to each other."""

_KINDS: Sequence[Kind] = ("kill", "kill", "pause", "stop")
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at: Seconds after the jobs were begun.
        target: The process.
        kind: What happens to it.
        pause: Seconds until it is started or continued.
    """

    at: float
    target: str
    kind: Kind
    pause: float

    def __str__(self) -> str:
        return f"{self.at:5.2f} s  {self.kind:<5} {self.target} for {self.pause:.2f} s"


def plan_faults(seed: int, window: float = 10.0) -> list[Fault]:
    """The faults of a run, in order.

    Args:
        seed: Decides everything.
        window: Seconds in which they happen.
    """
    chance = random.Random(f"faults {seed}")
    names, weights = list(TARGETS), list(TARGETS.values())
    faults = []
    for _ in range(chance.randint(4, 8)):
        target = chance.choices(names, weights)[0]
        kind: Kind = chance.choice(_KINDS)
        if target == "database":
            kind = "kill"
        pause = chance.uniform(0.0, 1.5)
        if kind == "pause":
            pause = chance.uniform(0.3, _LONGEST_PAUSE)
        faults.append(Fault(chance.uniform(0.1, window), target, kind, pause))
    return sorted(faults, key=lambda fault: fault.at)


def database_away(seconds: float) -> list[Fault]:
    """One fault: PostgreSQL ends while the jobs are under way, and stays away."""
    return [Fault(5.0, "database", "kill", seconds)]
