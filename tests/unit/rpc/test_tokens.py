"""What the services of an installation know each other by."""

from __future__ import annotations

import base64
import json

import jwt
import pytest

from hma.errors import Unauthenticated
from hma.rpc.tokens import LEEWAY, TokenKeys

OLD, NEW = b"o" * 32, b"n" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_says_who_calls() -> None:
    keys = TokenKeys([NEW])
    claims = keys.verify(keys.sign("worker", "meta-agent", tenant="a"), "meta-agent")
    assert (claims.subject, claims.more["tenant"]) == ("worker", "a")


def test_what_the_old_key_signed_is_still_good() -> None:
    token = TokenKeys([OLD]).sign("worker", "meta-agent")
    assert TokenKeys([NEW, OLD]).verify(token, "meta-agent").subject == "worker"


def test_a_token_expires() -> None:
    clock = Clock()
    keys = TokenKeys([NEW], lifetime=60, clock=clock)
    token = keys.sign("worker", "meta-agent")
    clock.now += 60 + LEEWAY
    assert keys.verify(token, "meta-agent").subject == "worker"
    clock.now += 0.1
    with pytest.raises(Unauthenticated, match="expired"):
        keys.verify(token, "meta-agent")


def _unsigned(token: str) -> str:
    """The same claims under `alg: none`."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode())
    return f"{header.decode().rstrip('=')}.{token.split('.')[1]}."


@pytest.mark.parametrize(
    "token",
    [
        TokenKeys([OLD]).sign("worker", "meta-agent"),
        TokenKeys([NEW]).sign("worker", "analyst"),
        jwt.encode({"sub": "worker", "aud": "meta-agent"}, NEW, "HS256"),
        _unsigned(TokenKeys([NEW]).sign("worker", "meta-agent")),
        TokenKeys([NEW]).sign("worker", "meta-agent")[:-2],
        "",
        "a.b.c",
    ],
    ids=["another key", "another audience", "for ever", "unsigned", "cut", "empty", "nonsense"],
)
def test_a_token_that_is_not_genuine_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        TokenKeys([NEW]).verify(token, "meta-agent")


def test_a_token_is_asked_each_time_whom_it_is_for() -> None:
    keys = TokenKeys([NEW])
    token = keys.sign("worker", "meta-agent")
    for _ in range(2):
        assert keys.verify(token, "meta-agent").subject == "worker"
        with pytest.raises(Unauthenticated):
            keys.verify(token, "analyst")


def test_a_token_ends_with_its_key() -> None:
    inside = [NEW, OLD]
    keys = TokenKeys(lambda: tuple(inside))
    token = TokenKeys([OLD]).sign("worker", "meta-agent")
    assert keys.verify(token, "meta-agent").subject == "worker"
    del inside[1]
    with pytest.raises(Unauthenticated):
        keys.verify(token, "meta-agent")


def test_what_a_token_says_cannot_be_changed() -> None:
    keys = TokenKeys([NEW])
    token = keys.sign("worker", "meta-agent", tenant="a")
    with pytest.raises(TypeError):
        keys.verify(token, "meta-agent").more["tenant"] = "b"  # type: ignore[index]
    assert keys.verify(token, "meta-agent").more["tenant"] == "a"


@pytest.mark.parametrize("keys", [[], [b"short"], [NEW, b"short"]])
def test_a_weak_key_is_refused(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="key"):
        TokenKeys(keys)
