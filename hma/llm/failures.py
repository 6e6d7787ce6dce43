"""What went wrong with a call: from what a client library raises to a FailureClass.

A refusal before generation (`CallRefused`) costs nothing and says so. Everything
else may have cost tokens. Servers that stream send the status before they generate,
so an error status means that nothing was generated; the exception is a gateway
(502, 504), which does not know what happened behind it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import httpx2
import openai

from hma.errors import CallFailed, FailureClass
from hma.llm.base import CallRefused
from hma.v1 import common_pb2

_TRANSIENT = common_pb2.FAILURE_CLASS_TRANSIENT
_RATE_LIMITED = common_pb2.FAILURE_CLASS_RATE_LIMITED
_TIMEOUT = common_pb2.FAILURE_CLASS_TIMEOUT
_OVERFLOW = common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW
_REFUSED = common_pb2.FAILURE_CLASS_REFUSED
_AUTH = common_pb2.FAILURE_CLASS_AUTH
_INTERNAL = common_pb2.FAILURE_CLASS_INTERNAL

_STATUS: Mapping[int, tuple[FailureClass.ValueType, str]] = {
    400: (_INTERNAL, "The model server rejected the request."),
    401: (_AUTH, "The model server refused the API key; set HMA_LLM_API_KEY."),
    403: (_AUTH, "The model server refused the API key; set HMA_LLM_API_KEY."),
    404: (_INTERNAL, "The model server does not serve this model; set HMA_LLM_MODEL."),
    408: (_TIMEOUT, "The model server timed out."),
    409: (_TRANSIENT, "The model server was briefly unable."),
    413: (_OVERFLOW, "The prompt is too large for the model server."),
    422: (_INTERNAL, "The model server rejected the request."),
    429: (_RATE_LIMITED, "The model server asked to slow down."),
    451: (_REFUSED, "The model server declined the content."),
    502: (_TRANSIENT, "The gateway in front of the model server lost it."),
    503: (_TRANSIENT, "The model server is full or still loading."),
    504: (_TIMEOUT, "The gateway in front of the model server timed out."),
}
_UNKNOWN_COST = (502, 504)
# As vLLM, llama.cpp and OpenAI word it; there is no code that they share.
_OVERFLOW_SIGNS = (
    "context length",
    "context size",
    "context window",
    "exceed_context_size",
    "context_length_exceeded",
    "prompt is too long",
    "longer than the maximum model length",
)
# vLLM and gateways in front of it refuse with 503 what their queue has no place for.
_FULL_SIGNS = ("queue", "too many", "overload", "overflow", "busy")
_CONTENT_SIGNS = ("content_filter", "content_policy", "content management policy")
# Failures before the request left this machine.
_NOT_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
    httpx2.ProxyError,
)


def classify(error: Exception, *, opened: bool) -> CallFailed:
    """The failure that an exception of the client library stands for.

    Args:
        error: What was raised.
        opened: Whether the server had already begun to answer.
    """
    if isinstance(error, openai.APIStatusError):
        return _from_status(error)
    if isinstance(error, openai.APIConnectionError):
        return _from_connection(error)
    if isinstance(error, openai.APIError) and opened:
        return _from_stream_error(error)
    # Not JSON, or JSON of another shape than a chunk has.
    return CallFailed("The model server's answer could not be read.", _TRANSIENT)


def stalled(seconds: float) -> CallFailed:
    """The server went silent."""
    return CallFailed(f"The model server sent nothing for {seconds:g} s.", _TIMEOUT)


def is_retryable(failure: CallFailed) -> bool:
    """Whether the same call may succeed in a moment."""
    return failure.failure_class in (_TRANSIENT, _RATE_LIMITED)


LONGEST_RETRY_AFTER = 86_400.0
"""Seconds that a server's wish counts at most: no job waits longer."""


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait; None when it does not say or makes no sense.

    Args:
        headers: Of the response; `retry-after-ms`, `Retry-After` as seconds or date. More
            than a day is taken for a day.
    """
    seconds = _wished(headers)
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER)


def _wished(headers: Mapping[str, str]) -> float | None:
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    seconds = _number(text)
    if seconds is not None or not text:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _from_status(error: openai.APIStatusError) -> CallFailed:
    status = error.status_code
    text = f"{error.message} {error.body}".lower()
    if status in (400, 413, 422, 500) and any(sign in text for sign in _OVERFLOW_SIGNS):
        return CallRefused("The prompt does not fit the model's context.", _OVERFLOW)
    if status in (400, 403) and any(sign in text for sign in _CONTENT_SIGNS):
        return CallRefused("The model server declined the content.", _REFUSED)
    if status == 503 and (
        "retry-after" in error.response.headers or any(sign in text for sign in _FULL_SIGNS)
    ):
        retry_after = parse_retry_after(error.response.headers)
        return CallRefused(
            "The queue of the model server is full.", _RATE_LIMITED, retry_after=retry_after
        )
    default = (
        (_TRANSIENT, f"The model server failed (HTTP {status}).")
        if status >= 500
        else (_INTERNAL, f"The model server rejected the request (HTTP {status}).")
    )
    failure_class, message = _STATUS.get(status, default)
    kind = CallFailed if status in _UNKNOWN_COST else CallRefused
    return kind(message, failure_class, retry_after=parse_retry_after(error.response.headers))


def _from_connection(error: openai.APIConnectionError) -> CallFailed:
    cause = error.__cause__
    if isinstance(cause, _NOT_SENT):
        return CallRefused("The model server cannot be reached.", _TRANSIENT)
    if isinstance(error, openai.APITimeoutError):
        return CallFailed("The model server did not answer in time.", _TIMEOUT)
    return CallFailed("The connection to the model server broke.", _TRANSIENT)


def _from_stream_error(error: openai.APIError) -> CallFailed:
    """An error that the server wrote into its stream; tokens may have been spent."""
    text = f"{error.message} {error.body}".lower()
    if any(sign in text for sign in _OVERFLOW_SIGNS):
        return CallFailed("The prompt does not fit the model's context.", _OVERFLOW)
    return CallFailed("The model server failed while it answered.", _TRANSIENT)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
