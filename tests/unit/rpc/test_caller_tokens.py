"""Tokens between services."""

from __future__ import annotations

import pytest

from hma.errors import Unauthenticated
from hma.rpc.caller_tokens import HEADER, CallerTokens

OLD, NEW = b"o" * 32, b"n" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def tokens(role: str, clock: Clock, *keys: bytes) -> CallerTokens:
    return CallerTokens(role, lambda: keys or (NEW,), lifetime=60, clock=clock)


def caller(called: CallerTokens, *shown: str | bytes) -> str | None:
    return called.caller_of([(HEADER, each) for each in shown])


def test_the_called_knows_who_calls() -> None:
    clock = Clock()
    token = tokens("worker", clock).token_for("meta-agent")
    assert caller(tokens("meta-agent", clock), token) == "worker"


def test_a_token_for_another_service_is_none() -> None:
    clock = Clock()
    token = tokens("meta-agent", clock).token_for("worker")
    with pytest.raises(Unauthenticated) as refused:
        caller(tokens("analyst", clock), token)
    assert refused.value.reason == "TOKEN_INVALID"


def test_a_token_is_used_for_half_its_life() -> None:
    clock = Clock()
    signer = tokens("worker", clock)
    first = signer.token_for("meta-agent")
    clock.now += 29
    assert signer.token_for("meta-agent") is first
    clock.now += 1
    assert signer.token_for("meta-agent") != first


def test_a_new_key_signs_at_once() -> None:
    clock, keys = Clock(), [OLD]
    signer = CallerTokens("worker", lambda: keys, clock=clock)
    old = signer.token_for("meta-agent")
    keys[:] = [NEW, OLD]
    new = signer.token_for("meta-agent")
    strict = tokens("meta-agent", clock, NEW)
    assert caller(strict, new) == "worker"
    with pytest.raises(Unauthenticated):
        caller(strict, old)
    assert caller(tokens("meta-agent", clock, NEW, OLD), old) == "worker"


def test_an_expired_token_is_said_to_be_that() -> None:
    clock = Clock()
    token = tokens("worker", clock).token_for("meta-agent")
    clock.now += 66
    with pytest.raises(Unauthenticated) as refused:
        caller(tokens("meta-agent", clock), token)
    assert refused.value.reason == "TOKEN_EXPIRED"


def test_no_token_is_nobody_and_two_are_refused() -> None:
    clock = Clock()
    called = tokens("meta-agent", clock)
    token = tokens("worker", clock).token_for("meta-agent")
    assert caller(called) is None
    for shown in ((token, token), (b"bytes",)):
        with pytest.raises(Unauthenticated):
            caller(called, *shown)
