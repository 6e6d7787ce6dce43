"""The key with which a client proves whose it is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hma.errors import InvalidRequest
from hma.secrecy import CLOSE_FILE, exposure
from hma.settings import Secret, load, setting

Metadata = tuple[tuple[str, str], ...]

API_KEY_FILE = "HMA_API_KEY_FILE"
_CREDENTIALS = ("authorization", "x-api-key")


class KeyWarning(UserWarning):
    """Others can read a key: on its way over the network, or in its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSettings:
    """What a client is told about its key."""

    api_key: Secret = setting(
        "HMA_API_KEY", Secret(""), "The key, or a token, with which HMA is called"
    )
    api_key_file: str = setting(
        API_KEY_FILE, "", "File with the key, read when HMA_API_KEY is unset"
    )


def has_credentials(metadata: Sequence[tuple[str, str]]) -> bool:
    """Whether metadata carries a key or a token."""
    return any(name.lower() in _CREDENTIALS for name, _ in metadata)


def bearer(key: str) -> Metadata:
    """The metadata that carries a key or a token."""
    return (("authorization", f"Bearer {key}"),)


def with_credentials(
    metadata: Sequence[tuple[str, str]],
    key: str | None,
    environ: Mapping[str, str] = os.environ,
) -> Metadata:
    """The metadata of a client's calls.

    Args:
        metadata: What they carry anyway; a credential in it is the one that counts.
        key: A key or a token; None reads HMA_API_KEY, else the file that HMA_API_KEY_FILE
            names; empty for none.
        environ: The environment.

    Raises:
        InvalidRequest: The file cannot be read, or the key is no single word.
    """
    if has_credentials(metadata):
        return tuple(metadata)
    if key is None:
        settings = load(CredentialSettings, environ)
        key = settings.api_key.reveal()
        if not key and settings.api_key_file:
            key = _read(settings.api_key_file)
            if fault := exposure(API_KEY_FILE, settings.api_key_file):
                warnings.warn(f"{fault}: {CLOSE_FILE}", KeyWarning, stacklevel=3)
    key = key.strip()
    if not key:
        return tuple(metadata)
    if not key.isascii() or not key.isprintable() or " " in key:
        # Not what it is: it is a secret.
        raise InvalidRequest.field("api_key", "expected one word of printable ASCII")
    return (*metadata, *bearer(key))


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise InvalidRequest.field(API_KEY_FILE, f"{file}: {why}") from None
