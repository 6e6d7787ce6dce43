"""The tries of one call, as both clients make them. Pure, but for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from hma.client.backoff import Backoff, repeatable
from hma.errors import HmaError, NotFound


class Tries:
    """Counts the failures of a call and says whether, and when, it is tried again.

    Args:
        backoff: How often and how fast.
        seconds: Time for all tries together.
        once: Never again: what is asked for must not happen twice.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        backoff: Backoff,
        seconds: float,
        *,
        once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backoff = backoff
        self._once = once
        self._clock = clock
        self._end = clock() + seconds
        self._failures = 0

    def left(self) -> float:
        """Seconds that the next try may take."""
        return max(0.0, self._end - self._clock())

    def was_done_before(self, failure: HmaError) -> bool:
        """Whether what is to be deleted went with an earlier try, whose answer was lost."""
        return self._failures > 0 and isinstance(failure, NotFound)

    def wait_after(self, failure: HmaError) -> float | None:
        """Seconds to wait before the next try; None: there is none, `failure` stands."""
        self._failures += 1
        wait = self._backoff.delay(self._failures, failure)
        late = self._clock() + wait >= self._end
        if self._once or late or not repeatable(failure):
            return None
        return None if self._backoff.exhausted(self._failures) else wait
