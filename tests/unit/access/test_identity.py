"""The identity that the MetaAgent signs for itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hma.errors import Unauthenticated
from hma.rpc.tokens import LEEWAY, TokenKeys
from services.meta_agent.access.caller import Caller
from services.meta_agent.access.identity import (
    HEADER,
    LIFETIME,
    REQUEST_ID,
    REUSED,
    Identities,
    identity_of,
    sign_identity,
)
from services.meta_agent.access.roles import ADMIN, READER

KEY = b"k" * 32
CALLER = Caller(tenant="acme", subject="key:a", role=ADMIN, address="192.0.2.7", request_id="r")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_an_identity_is_who_was_identified() -> None:
    keys = TokenKeys([KEY])
    token = sign_identity(keys, CALLER)
    metadata = [("user-agent", "x"), (HEADER, token), (REQUEST_ID, "r")]
    assert identity_of(keys, metadata) == CALLER


def test_an_identity_outlives_a_slow_upload_and_no_more() -> None:
    clock = Clock()
    keys = TokenKeys([KEY], lifetime=LIFETIME, clock=clock)
    identities = Identities(keys, clock=clock)
    identities.of(CALLER)
    clock.now += REUSED - 1
    metadata = [(HEADER, identities.of(CALLER)), (REQUEST_ID, "r")]
    # Ten minutes may pass while the gateway collects an upload.
    clock.now += 600
    assert identity_of(keys, metadata) == CALLER
    clock.now += LIFETIME - 600 + LEEWAY + 1
    with pytest.raises(Unauthenticated) as error:
        identity_of(keys, metadata)
    assert error.value.reason == "TOKEN_EXPIRED"


def test_who_calls_again_gets_the_same_identity_for_a_while() -> None:
    clock, inside = Clock(), [KEY]
    identities = Identities(TokenKeys(lambda: tuple(inside), clock=clock), most=2, clock=clock)
    token = identities.of(CALLER)
    assert identities.of(replace(CALLER, request_id="another")) == token
    others = [
        replace(CALLER, **change)
        for change in ({"tenant": "b"}, {"subject": "key:b"}, {"role": READER}, {"address": "b"})
    ]
    seen = {identities.of(other) for other in others} | {token}
    assert len(seen) == 5
    # It was forgotten for the others.
    clock.now += 1
    later = identities.of(CALLER)
    assert later not in seen
    clock.now += REUSED
    renewed = identities.of(CALLER)
    assert renewed not in {*seen, later}
    inside[0] = b"n" * 32
    assert identities.of(CALLER) != renewed


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [sign_identity(TokenKeys([KEY]), CALLER)] * 2,
        [sign_identity(TokenKeys([b"x" * 32]), CALLER)],
        [TokenKeys([KEY]).sign("key:a", "worker", tenant="acme", role=4)],
        [TokenKeys([KEY]).sign("worker", "meta-agent")],
        [TokenKeys([KEY]).sign("worker", "meta-agent", tenant="acme")],
        [TokenKeys([KEY]).sign("worker", "meta-agent", tenant="acme", role=0)],
        [TokenKeys([KEY]).sign("worker", "meta-agent", tenant="acme", role=9)],
        [TokenKeys([KEY]).sign("worker", "meta-agent", tenant=7, role=4)],
        [""],
    ],
)
def test_anything_else_is_nobody(tokens: list[str]) -> None:
    with pytest.raises(Unauthenticated):
        identity_of(TokenKeys([KEY]), [(HEADER, token) for token in tokens])
