"""What a client says before a key goes over a network in plain text."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from hma.client.connection import Server
from hma.client.credentials import KeyWarning
from hma.errors import InvalidRequest
from hma.settings import load, one_of, setting

_NAME = "HMA_PLAINTEXT_KEY"
_ALLOW = "allow"
_REFUSE = "refuse"

ENCRYPT = "name it as https://… (HMA_GATEWAY_TLS_CERT_FILE gives a gateway its certificate)"
"""How a client of the gateway gets TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaintextSettings:
    """What a client is told about networks without TLS."""

    plaintext_key: str = setting(
        _NAME,
        "warn",
        "What happens when a key would go in plain text (no https://) to another machine: warn; "
        "allow, where nobody else reads the network; or refuse",
        check=one_of("warn", _ALLOW, _REFUSE),
    )


def plaintext_fault(server: Server, environ: Mapping[str, str] = os.environ) -> str:
    """What is wrong with sending a key to `server`; empty if nothing is, or it is allowed.

    Raises:
        SettingsError: HMA_PLAINTEXT_KEY is none of its values.
    """
    if _action(environ) == _ALLOW or server.secure or server.is_local:
        return ""
    return f"a key crosses the network to {server.target} in plain text; who reads it can use it"


def plaintext_remedy(encrypt: str = ENCRYPT) -> str:
    """What to do about it.

    Args:
        encrypt: How to get TLS.
    """
    return f"{encrypt}, or set {_NAME}={_ALLOW} if nobody else reads that network"


def guard_key(
    server: Server, encrypt: str = ENCRYPT, environ: Mapping[str, str] = os.environ
) -> None:
    """Before a key is sent to `server`: warns where its caller was called, or refuses.

    Args:
        server: To whom.
        encrypt: How to get TLS.
        environ: The environment.

    Raises:
        InvalidRequest: HMA_PLAINTEXT_KEY says that it must not be sent so.
        SettingsError: HMA_PLAINTEXT_KEY is none of its values.
    """
    fault = plaintext_fault(server, environ)
    if not fault:
        return
    if _action(environ) == _REFUSE:
        raise InvalidRequest.field(_NAME, f"{server.target} would get a key in plain text")
    warnings.warn(f"{fault}: {plaintext_remedy(encrypt)}", KeyWarning, stacklevel=3)


def _action(environ: Mapping[str, str]) -> str:
    return load(PlaintextSettings, environ).plaintext_key
