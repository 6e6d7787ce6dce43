"""The text of an API key: `hma_<key id>_<secret>`. Pure, but for chance.

Of the secret only SHA-256 is kept. It is 32 random bytes, so nobody can try all that there
are, and a slow hash, which makes guessing a person's password dear, would only make every
call dear. The prefix lets scanners find keys that were published by mistake.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field

PREFIX = "hma_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARS = 12
_SECRET_BYTES = 32
_SECRET_CHARS = 43
"""Of base 62: the least number of characters that hold 256 bits."""

_TEXT = re.compile(rf"hma_([0-9A-Za-z]{{{_ID_CHARS}}})_([0-9A-Za-z]{{{_SECRET_CHARS}}})")
_ID = re.compile(rf"[0-9A-Za-z]{{{_ID_CHARS}}}")


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A key as its bearer shows it.

    Attributes:
        key_id: Its public name.
        secret_hash: SHA-256 of the secret.
    """

    key_id: str
    secret_hash: bytes = field(repr=False)


def new_key_id() -> str:
    """A public name for a key: 12 characters of base 62, 71 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))


def new_secret() -> str:
    """A secret: 32 random bytes in base 62."""
    number = int.from_bytes(secrets.token_bytes(_SECRET_BYTES), "big")
    digits = []
    for _ in range(_SECRET_CHARS):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def text_of(key_id: str, secret: str) -> str:
    """What the bearer of a key sends."""
    return f"{PREFIX}{key_id}_{secret}"


def hash_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def parse(text: str) -> ShownKey | None:
    """Reads a key's text; None when it is not the text of a key."""
    match = _TEXT.fullmatch(text)
    return None if match is None else ShownKey(match[1], hash_of(match[2]))


def is_key_id(text: str) -> bool:
    """Whether a text has the shape of a key's public name."""
    return _ID.fullmatch(text) is not None
