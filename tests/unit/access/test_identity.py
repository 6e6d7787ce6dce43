"""The identity that the MetaAgent signs for itself."""

from __future__ import annotations

import pytest

from hma.errors import Unauthenticated
from hma.rpc.tokens import LEEWAY, TokenKeys
from services.meta_agent.access.caller import Caller
from services.meta_agent.access.identity import HEADER, LIFETIME, identity_of, sign_identity
from services.meta_agent.access.roles import ADMIN

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
    assert identity_of(keys, [("user-agent", "x"), (HEADER, token)]) == CALLER


def test_an_identity_outlives_a_slow_upload_and_no_more() -> None:
    clock = Clock()
    keys = TokenKeys([KEY], lifetime=LIFETIME, clock=clock)
    metadata = [(HEADER, sign_identity(keys, CALLER))]
    # Five minutes may pass between two pieces of an upload that the gateway collects.
    clock.now += 300
    assert identity_of(keys, metadata) == CALLER
    clock.now += LIFETIME - 300 + LEEWAY + 1
    with pytest.raises(Unauthenticated) as error:
        identity_of(keys, metadata)
    assert error.value.reason == "TOKEN_EXPIRED"


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
