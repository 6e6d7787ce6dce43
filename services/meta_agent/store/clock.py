"""Database time without asking the database.

Deadlines are database time, so that replicas with different clocks agree.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from services.meta_agent.store.database import Database

_SAMPLES = 16
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


@dataclass(frozen=True, slots=True)
class _Sample:
    round_trip: float
    offset: float


class Clock:
    """Estimates database time as the local monotonic clock plus an offset.

    Each sample takes the database to have answered in the middle of its round trip, so
    it is wrong by half of it at most; the quickest of the latest samples counts
    (RFC 5905, clock filter). Samples come with the beats of the replica.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        # Replaced as a whole: the beat's thread writes it, others read it.
        self._offset = time.time() - monotonic()
        self._latest = 0.0

    def observe(self, sent: float, received: float, database_time: float) -> None:
        """Takes a sample.

        Args:
            sent: Monotonic time before the question.
            received: Monotonic time after the answer.
            database_time: The answer, Unix seconds.
        """
        sample = _Sample(received - sent, database_time - (sent + received) / 2)
        best = min((s.round_trip for s in self._samples), default=0.0)
        doubt = (best + sample.round_trip) / 2
        if self._samples and abs(sample.offset - self._offset) > doubt + 1.0:
            # The database's clock was set, or this machine slept: the past is of no use.
            self._samples.clear()
            self._latest = 0.0
        self._samples.append(sample)
        self._offset = min(self._samples, key=lambda s: s.round_trip).offset

    async def synchronise(self, database: Database) -> None:
        """Takes a sample now.

        Raises:
            Unavailable: The database cannot be reached.
        """
        async with database.connection() as connection:
            sent = self._monotonic()
            answer = await connection.fetchval(_NOW)
            received = self._monotonic()
        self.observe(sent, received, answer)

    def now(self) -> float:
        """Database time, Unix seconds. Does not run backwards when the estimate improves."""
        self._latest = max(self._latest, self._monotonic() + self._offset)
        return self._latest
