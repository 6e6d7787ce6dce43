"""A circuit breaker, pure: closed, open for a while, half-open for one attempt.

Nygard, "Release It!" (2007). Here a breaker counts what is over: a failure of the
route's fault adds one, a success takes one away, and what is older than the window is
forgotten; so a busy route with some failures stays closed, a dead one opens quickly.
"""

from __future__ import annotations

import enum
import zlib
from dataclasses import dataclass, replace


class State(enum.Enum):
    """Whether attempts may take the route."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """When a breaker opens, and for how long.

    Attributes:
        failures: Failures, less successes, within the window that open it.
        window: Seconds after which a failure is forgotten.
        first: Seconds that it is open the first time; twice as long each next time.
        longest: Seconds that it is open at most.
    """

    failures: int = 5
    window: float = 30.0
    first: float = 1.0
    longest: float = 30.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """One route's breaker, as one replica sees it. Times in seconds, of any one clock.

    Attributes:
        failed: When the failures were that count, the oldest first.
        openings: How often in a row it opened, without a success in between.
        until: Until when it is open; 0 when it is closed.
        words: The latest failure.
    """

    failed: tuple[float, ...] = ()
    openings: int = 0
    until: float = 0.0
    words: str = ""

    def state(self, now: float) -> State:
        """Where it is."""
        if not self.openings:
            return State.CLOSED
        return State.OPEN if now < self.until else State.HALF_OPEN

    def after_failure(self, now: float, words: str, rules: BreakerRules, name: str) -> Breaker:
        """After an attempt that failed by the route's fault.

        Args:
            now: The time.
            words: What went wrong.
            rules: When it opens.
            name: Whose breaker it is: replicas and routes open for different times, so
                that they do not come back together. The jitter is a hash of it.
        """
        state = self.state(now)
        if state is State.OPEN:
            return self  # begun before it opened
        failed = (*(t for t in self.failed if now - t < rules.window), now)[-rules.failures :]
        if state is State.CLOSED and len(failed) < rules.failures:
            return replace(self, failed=failed, words=words)
        openings = self.openings + 1
        wait = min(rules.first * 2.0 ** min(openings - 1, 16), rules.longest)
        wait *= 1.0 - 0.5 * (zlib.crc32(f"{name}/{openings}/{now}".encode()) / 2**32)
        return Breaker((), openings, now + wait, words)

    def after_success(self, now: float) -> Breaker:
        """After an attempt that the route has answered."""
        state = self.state(now)
        if state is State.OPEN:
            return self
        if state is State.HALF_OPEN:
            return Breaker()
        return replace(self, failed=self.failed[1:])
