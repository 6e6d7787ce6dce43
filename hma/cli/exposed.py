"""What `hma doctor` finds out about secrets that others could read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hma.cli.finding import Finding, Health
from hma.client.connection import Server
from hma.client.credentials import API_KEY_FILE, with_credentials
from hma.client.plaintext import plaintext_fault, plaintext_remedy
from hma.errors import HmaError
from hma.rpc.callers import ROLES
from hma.secrecy import CLOSE_FILE, exposure

_FILES = (
    API_KEY_FILE,
    "HMA_INTERNAL_KEY_FILE",
    "HMA_TLS_KEY_FILE",
    "HMA_GATEWAY_TLS_KEY_FILE",
)


def look_at_secrets(server: Server, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yields what is wrong; nothing when all is well.

    Args:
        server: To whom the client's key goes.
        environ: Names the files, and has the key.
    """
    if _has_key(environ):
        yield from _way(server, environ)
    for variable in _FILES:
        named = environ.get(variable, "").strip()
        # What {role} stands for in HMA_TLS_KEY_FILE of a local stack.
        for path in dict.fromkeys(named.replace("{role}", role) for role in ROLES):
            if path and (fault := exposure(variable, path)):
                yield Finding("secret file", Health.RISKY, fault, CLOSE_FILE)


def _has_key(environ: Mapping[str, str]) -> bool:
    try:
        return bool(with_credentials((), None, environ))
    except HmaError:
        return False


def _way(server: Server, environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        fault = plaintext_fault(server, environ)
    except HmaError as error:
        yield Finding("key", Health.BAD, error.message, "correct it")
        return
    if fault:
        yield Finding("key", Health.RISKY, fault, plaintext_remedy())
