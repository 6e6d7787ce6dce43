"""When to try again, and how long to wait first."""

from __future__ import annotations

import random
from dataclasses import dataclass

import grpc

from hma.errors import HmaError, RetryableError, Unavailable

_RESUMABLE = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, jittered and bounded in number.

    Attributes:
        tries: Tries in a row without success before giving up, the first included.
        first: Longest wait before the second try, in seconds; doubles from there.
        limit: Longest wait between two tries, in seconds.
    """

    tries: int = 4
    first: float = 0.2
    limit: float = 5.0

    def delay(self, failures: int, failure: HmaError | None = None) -> float:
        """Seconds to wait after `failures` failures in a row (from 1).

        Between half and the whole of the exponential step, so that clients that
        broke together do not return together; never less than the server asked for.
        """
        step = min(self.limit, self.first * 2.0 ** (failures - 1))
        wait = step * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        asked = failure.retry_after if isinstance(failure, RetryableError) else None
        return max(wait, asked or 0.0)

    def exhausted(self, failures: int) -> bool:
        """Whether `failures` failures in a row are enough."""
        return failures >= self.tries


def repeatable(failure: HmaError) -> bool:
    """Whether a call may be sent again: the server was away, not unwilling.

    Safe for mutations too, because each carries a request_id.
    """
    return isinstance(failure, Unavailable)


def resumable(error: grpc.RpcError) -> bool:
    """Whether a watch that ended so may be opened again where it broke.

    Wider than `repeatable`: watching changes nothing, and proxies end long
    streams with all of these codes.
    """
    return error.code() in _RESUMABLE
