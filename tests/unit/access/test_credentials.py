"""What a request shows, and what a token says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.meta_agent.access import key_text
from services.meta_agent.access.claims import ClaimNames, caller_of
from services.meta_agent.access.credentials import ShownToken, credentials_of
from services.meta_agent.access.doorkeeper import check_key
from services.meta_agent.access.key_text import ShownKey
from services.meta_agent.access.refusing import Refusal
from services.meta_agent.access.roles import ADMIN, USER
from services.meta_agent.store.keys import KeyRow

SECRET, OLD_SECRET = "s" * 43, "o" * 43
KEY = key_text.text_of("a" * 12, SECRET)
NOW = datetime(2026, 11, 25, tzinfo=UTC)
ROW = KeyRow(
    key_id="a" * 12,
    tenant="acme",
    role=USER,
    note="",
    secret_hash=key_text.hash_of(SECRET),
    old_secret_hash=None,
    old_secret_expire_time=None,
    create_time=NOW,
    rotate_time=None,
    expire_time=None,
    revoke_time=None,
    last_use_time=None,
)


def shown(secret: str) -> ShownKey:
    found = key_text.parse(key_text.text_of("a" * 12, secret))
    assert found is not None
    return found


def reason_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        call(*arguments)
    return refusal.value.error.reason


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {KEY} "},
        {"x-api-key": KEY},
        {"x-api-key": KEY, "authorization": ""},
    ],
)
def test_a_key_may_be_in_either_header(headers: dict[str, str]) -> None:
    assert credentials_of(headers) == shown(SECRET)


def test_other_bearers_have_tokens() -> None:
    assert credentials_of({"authorization": "Bearer eyJ.a.b"}) == ShownToken()


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "NO_CREDENTIALS"),
        ({"authorization": f"Bearer {KEY}", "x-api-key": KEY}, "TWO_CREDENTIALS"),
        ({"authorization": f"Bearer {KEY},Bearer {KEY}"}, "KEY_UNKNOWN"),
        ({"authorization": KEY}, "NO_BEARER"),
        ({"authorization": f"Basic {KEY}"}, "NO_BEARER"),
        ({"authorization": "Bearer"}, "NO_BEARER"),
        ({"x-api-key": "eyJ.a.b"}, "KEY_UNKNOWN"),
        ({"x-api-key": KEY + "x"}, "KEY_UNKNOWN"),
    ],
)
def test_anything_else_is_refused(headers: dict[str, str], reason: str) -> None:
    assert reason_of(credentials_of, headers) == reason


def test_a_key_works_with_its_secret_only() -> None:
    assert check_key(ROW, shown(SECRET), NOW) is ROW
    assert reason_of(check_key, ROW, shown("t" * 43), NOW) == "KEY_UNKNOWN"
    assert reason_of(check_key, None, shown(SECRET), NOW) == "KEY_UNKNOWN"


def test_no_hash_is_the_hash_of_nothing() -> None:
    zeros = ShownKey("a" * 12, bytes(32))
    assert reason_of(check_key, ROW, zeros, NOW) == "KEY_UNKNOWN"
    assert reason_of(check_key, None, zeros, NOW) == "KEY_UNKNOWN"


def test_an_old_secret_works_until_its_time() -> None:
    until = NOW + timedelta(hours=1)
    rotated = replace(
        ROW, old_secret_hash=key_text.hash_of(OLD_SECRET), old_secret_expire_time=until
    )
    assert check_key(rotated, shown(OLD_SECRET), NOW) is rotated
    assert check_key(rotated, shown(SECRET), until) is rotated
    assert reason_of(check_key, rotated, shown(OLD_SECRET), until) == "KEY_ROTATED"
    # The key's own end is the end of both.
    expired = replace(rotated, expire_time=NOW)
    assert reason_of(check_key, expired, shown(OLD_SECRET), NOW) == "KEY_EXPIRED"


def test_only_who_has_the_secret_hears_that_a_key_ended() -> None:
    ended = replace(ROW, revoke_time=NOW)
    with pytest.raises(Refusal) as refusal:
        check_key(ended, shown(SECRET), NOW)
    assert (refusal.value.error.reason, refusal.value.tenant) == ("KEY_REVOKED", "acme")
    with pytest.raises(Refusal) as refusal:
        check_key(ended, shown("t" * 43), NOW)
    assert (refusal.value.error.reason, refusal.value.tenant) == ("KEY_UNKNOWN", "")


def test_claims_may_have_other_names() -> None:
    names = ClaimNames(tenant="https://hma.test/org", role="groups")
    payload = {"sub": "ada", names.tenant: "acme", "groups": ["staff", "admin", 7]}
    caller = caller_of({"payload": payload}, names)
    assert (caller.tenant, caller.subject, caller.role) == ("acme", "jwt:ada", ADMIN)


@pytest.mark.parametrize("subject", [None, 7, "a\nb", "x" * 1000])
def test_a_subject_is_one_printable_line(subject: Any) -> None:
    caller = caller_of({"payload": {"sub": subject, "tenant": "acme"}}, ClaimNames())
    assert caller.subject.startswith("jwt:")
    assert caller.subject.isprintable()
    assert len(caller.subject) <= 204


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({}, "TOKEN_INVALID"),
        ({"payload": "acme"}, "TOKEN_INVALID"),
        ({"failure": {"code": 1, "message": "Jwt is expired"}}, "TOKEN_EXPIRED"),
        ({"failure": {"message": "Audiences in Jwt are not allowed"}}, "TOKEN_AUDIENCE"),
        ({"failure": {"message": "Jwt verification fails"}}, "TOKEN_INVALID"),
        ({"failure": "Jwt is expired"}, "TOKEN_INVALID"),
        ({"payload": {"sub": "a"}}, "NO_TENANT_CLAIM"),
        ({"payload": {"tenant": True}}, "TENANT_CLAIM_INVALID"),
        ({"payload": {"tenant": "a b"}}, "TENANT_CLAIM_INVALID"),
        ({"payload": {"tenant": "x" * 65}}, "TENANT_CLAIM_INVALID"),
        ({"payload": {"tenant": "acme\n"}}, "TENANT_CLAIM_INVALID"),
        ({"payload": {"tenant": "a", "role": []}}, "ROLE_CLAIM_INVALID"),
        ({"payload": {"tenant": "a", "role": 4.0}}, "ROLE_CLAIM_INVALID"),
        ({"payload": {"tenant": "a", "role": "unspecified"}}, "ROLE_CLAIM_INVALID"),
    ],
)
def test_a_token_that_does_not_say_whose_it_is_is_refused(
    found: dict[str, Any], reason: str
) -> None:
    assert reason_of(caller_of, found, ClaimNames()) == reason
