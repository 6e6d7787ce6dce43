from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import openai
import pytest

from hma.llm.base import CallRefused
from hma.llm.failures import classify, is_retryable, parse_retry_after
from hma.v1 import common_pb2

TRANSIENT = common_pb2.FAILURE_CLASS_TRANSIENT
RATE_LIMITED = common_pb2.FAILURE_CLASS_RATE_LIMITED
TIMEOUT = common_pb2.FAILURE_CLASS_TIMEOUT
OVERFLOW = common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW
REFUSED = common_pb2.FAILURE_CLASS_REFUSED
AUTH = common_pb2.FAILURE_CLASS_AUTH
INTERNAL = common_pb2.FAILURE_CLASS_INTERNAL

REQUEST = httpx2.Request("POST", "http://model/v1/chat/completions")


def status_error(status: int, message: str = "secret detail", **headers: str) -> Exception:
    response = httpx2.Response(status, headers=headers, request=REQUEST)
    return openai.APIStatusError(message, response=response, body={"message": message})


def connection_error(cause: Exception) -> Exception:
    error: Exception = openai.APIConnectionError(request=REQUEST)
    if isinstance(cause, httpx2.TimeoutException):
        error = openai.APITimeoutError(request=REQUEST)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("status", "message", "expected", "free"),
    [
        (400, "bad field", INTERNAL, True),
        (400, "This model's maximum context length is 10 tokens", OVERFLOW, True),
        (400, "request (9 tokens) exceeds the available context size", OVERFLOW, True),
        (400, "blocked by content_filter", REFUSED, True),
        (401, "no", AUTH, True),
        (403, "no", AUTH, True),
        (404, "no such model", INTERNAL, True),
        (408, "slow", TIMEOUT, True),
        (409, "conflict", TRANSIENT, True),
        (413, "big", OVERFLOW, True),
        (418, "teapot", INTERNAL, True),
        (422, "bad", INTERNAL, True),
        (429, "slow down", RATE_LIMITED, True),
        (451, "legal", REFUSED, True),
        (500, "boom", TRANSIENT, True),
        (502, "bad gateway", TRANSIENT, False),
        (503, "Loading model", TRANSIENT, True),
        (503, "Too many queued requests", RATE_LIMITED, True),
        (504, "gateway timeout", TIMEOUT, False),
        (529, "overloaded", TRANSIENT, True),
    ],
)
def test_a_status_has_a_class_and_a_cost(
    status: int, message: str, expected: int, free: bool
) -> None:
    failure = classify(status_error(status, message), opened=False)
    assert failure.failure_class == expected
    assert isinstance(failure, CallRefused) == free
    assert is_retryable(failure) == (expected in (TRANSIENT, RATE_LIMITED))


@pytest.mark.parametrize(
    ("cause", "expected", "free"),
    [
        (httpx2.ConnectError("refused"), TRANSIENT, True),
        (httpx2.ConnectTimeout("slow"), TRANSIENT, True),
        (httpx2.PoolTimeout("full"), TRANSIENT, True),
        (httpx2.ReadTimeout("silent"), TIMEOUT, False),
        (httpx2.ReadError("reset"), TRANSIENT, False),
        (httpx2.RemoteProtocolError("closed"), TRANSIENT, False),
    ],
)
def test_a_connection_that_was_never_made_costs_nothing(
    cause: Exception, expected: int, free: bool
) -> None:
    failure = classify(connection_error(cause), opened=False)
    assert failure.failure_class == expected
    assert isinstance(failure, CallRefused) == free


@pytest.mark.parametrize("error", [ValueError("not JSON"), KeyError("choices"), TypeError()])
def test_an_unreadable_answer_is_transient_and_may_have_cost(error: Exception) -> None:
    failure = classify(error, opened=True)
    assert failure.failure_class == TRANSIENT
    assert not isinstance(failure, CallRefused)


def test_messages_never_carry_the_servers_own_text() -> None:
    for status in range(400, 600):
        assert "secret" not in classify(status_error(status), opened=False).message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "1e300"}, 86_400.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_or_ignored(headers: dict[str, str], expected: float | None) -> None:
    assert parse_retry_after(headers) == expected


def test_retry_after_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    seconds = parse_retry_after({"retry-after": date})
    assert seconds is not None
    assert 28 < seconds <= 30


def test_a_status_passes_its_retry_after_on() -> None:
    failure = classify(status_error(429, **{"Retry-After": "12"}), opened=False)
    assert failure.retry_after == 12
