"""What keys look like."""

from __future__ import annotations

import hashlib

import pytest

from services.meta_agent.access import key_text


def test_a_key_is_read_as_it_was_made() -> None:
    for _ in range(200):
        key_id, secret = key_text.new_key_id(), key_text.new_secret()
        shown = key_text.parse(key_text.text_of(key_id, secret))
        assert shown is not None
        assert shown.key_id == key_id
        assert shown.secret_hash == hashlib.sha256(secret.encode()).digest()
        assert key_text.is_key_id(key_id)


def test_a_secret_holds_32_random_bytes() -> None:
    assert 62**43 >= 2**256 > 62**42
    assert len({key_text.new_secret() for _ in range(1000)}) == 1000


def test_a_key_that_is_shown_does_not_show_itself() -> None:
    secret = key_text.new_secret()
    shown = key_text.parse(key_text.text_of("a" * 12, secret))
    assert "secret_hash" not in repr(shown)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hma_",
        f"hma_{'a' * 12}_{'b' * 42}",
        f"hma_{'a' * 12}_{'b' * 44}",
        f"hma_{'a' * 11}_{'b' * 43}",
        f"hma_{'a' * 12}-{'b' * 43}",
        f"HMA_{'a' * 12}_{'b' * 43}",
        f"hma_{'a' * 12}_{'b' * 43}\n",
        f" hma_{'a' * 12}_{'b' * 43}",
        f"hma_{'a' * 12}_{'b' * 42}é",
        f"hma_{'a' * 12}_{'b' * 43},hma_{'a' * 12}_{'b' * 43}",
    ],
)
def test_what_is_no_key_is_not_looked_up(text: str) -> None:
    assert key_text.parse(text) is None
