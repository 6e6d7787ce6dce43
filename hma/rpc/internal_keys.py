"""The keys that the services of one installation share, and what is derived from them."""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from hma.errors import SettingsError
from hma.rpc.tokens import LEAST_KEY_BYTES
from hma.rpc.watched import Watched

_GATEWAY = b"hma gateway"
_GATEWAY_PREFIX = "gateway."


def read_internal_keys(path: str | Path) -> list[bytes]:
    """Reads a key file: one key a line, the first of which signs.

    Raises:
        SettingsError: The file cannot be read, has no key, or one that is too short.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(
            f"HMA_INTERNAL_KEY_FILE: {path} cannot be read: {error.strerror}; make one with "
            "`openssl rand -hex 32`, the same for every service"
        ) from None
    keys = [line.strip() for line in lines if line.strip()]
    if not keys or any(len(key) < LEAST_KEY_BYTES for key in keys):
        raise SettingsError(
            f"HMA_INTERNAL_KEY_FILE: {path} must hold a key of {LEAST_KEY_BYTES} characters or "
            "more on each line, as `openssl rand -hex 32` makes them"
        )
    return keys


def watch_internal_keys(path: str) -> Watched[tuple[bytes, ...]]:
    """The keys of a file that may be replaced while the process runs.

    Raises:
        SettingsError: As `read_internal_keys`.
    """
    return Watched("HMA_INTERNAL_KEY_FILE", [path], lambda: tuple(read_internal_keys(path)))


# Asked for with every request that the gateway asks about; of few keys.
@functools.lru_cache(maxsize=8)
def gateway_credential(key: bytes) -> str:
    """What the gateway shows as `x-hma-caller` when it asks whether a request may pass.

    Envoy cannot make tokens that expire. It gets HMAC-SHA-256(key, "hma gateway") instead of
    the key: who reads its configuration may ask, but cannot speak as a service. Where JSON Web
    Tokens are taken it is believed about those, so it is to be kept like the key.
    """
    return _GATEWAY_PREFIX + hmac.new(key, _GATEWAY, hashlib.sha256).hexdigest()


def is_gateway(credential: str, keys: Sequence[bytes]) -> bool:
    """Whether a credential is the gateway's, made from any of the keys."""
    shown = credential.encode("utf-8", "replace")
    matches = [hmac.compare_digest(shown, gateway_credential(key).encode()) for key in keys]
    return any(matches)
