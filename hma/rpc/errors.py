"""Ends an RPC with an error, on the server.

The table from errors to statuses is `hma.rpc.status`, which clients use too.
"""

from __future__ import annotations

import logging
import math
import uuid
from typing import Any, Never

import grpc

from hma import errors
from hma.rpc.status import CODES, DETAILS_KEY, code_of, from_rpc_error, to_status

__all__ = ["CODES", "abort", "code_of", "from_rpc_error", "to_status", "trailers_of", "unexpected"]

_log = logging.getLogger(__name__)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: errors.HmaError) -> Never:
    """Ends the RPC with the status of `error`, details included.

    Raises:
        grpc.aio.AbortError: Always; let it pass.
    """
    code = code_of(error)
    # abort() does not record its code; the access metrics read it from the context.
    context.set_code(code)
    await context.abort(code, to_status(error).message, trailers_of(error))


def trailers_of(error: errors.HmaError) -> tuple[tuple[str, str | bytes], ...]:
    """What travels behind the code: the details, and the headers that HTTP clients know.

    The gateway makes headers of the response of them.
    """
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, to_status(error).SerializeToString())]
    if not isinstance(error, errors.RetryableError):
        return tuple(trailers)
    if error.retry_after is not None:
        trailers.append(("retry-after", str(max(math.ceil(error.retry_after), 0))))
    if isinstance(error, errors.QuotaExceeded):
        trailers += _limit_headers(error)
    return tuple(trailers)


def _limit_headers(error: errors.QuotaExceeded) -> list[tuple[str, str | bytes]]:
    """The usual headers of a limit: how much, what is left, seconds until there is more."""
    headers: list[tuple[str, str | bytes]] = []
    if error.limit is not None:
        headers.append(("x-ratelimit-limit", f"{error.limit:.10g}"))
    if error.remaining is not None:
        headers.append(("x-ratelimit-remaining", f"{error.remaining:.10g}"))
    if error.retry_after is not None:
        headers.append(("x-ratelimit-reset", str(max(math.ceil(error.retry_after), 0))))
    return headers


def unexpected(error: BaseException, where: str) -> errors.HmaError:
    """Logs a defect and returns what a stranger may know of it: an id to quote."""
    error_id = uuid.uuid4().hex[:12]
    _log.error("unexpected error in %s", where, exc_info=error, extra={"error_id": error_id})
    return errors.HmaError(
        f"an internal error occurred; quote error id {error_id} when you report it"
    )
