"""By which certificate authorities a client knows an https:// server."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from hma.errors import InvalidRequest
from hma.settings import load, setting

_NAME = "HMA_CA_FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """What a client is told about whom to trust."""

    ca_file: str = setting(
        _NAME,
        "",
        "PEM file with the certificate authorities of an https:// server, for one that is not "
        "certified by a public authority; only these are trusted then",
    )


def authorities(ca_file: str | None, environ: Mapping[str, str] = os.environ) -> bytes | None:
    """The certificate authorities to trust, in PEM; None for the public ones.

    Args:
        ca_file: A file of them; None reads HMA_CA_FILE; empty for the public ones.
        environ: The environment.

    Raises:
        InvalidRequest: The file cannot be read, or holds no certificates.
    """
    file = load(TrustSettings, environ).ca_file if ca_file is None else ca_file
    if not file:
        return None
    try:
        content = Path(file).read_bytes()
        # gRPC says only at the first connection, and in its own log, that a file is no good; for
        # an empty one it silently trusts the public authorities.
        verifying_context(content)
    except (OSError, ValueError) as error:
        readable = isinstance(error, ssl.SSLError | ValueError)
        why = "no certificates in PEM" if readable else getattr(error, "strerror", None)
        raise InvalidRequest.field(_NAME, f"{file}: {why or 'cannot be read'}") from None
    return content


def channel_credentials(
    ca_file: str | None, environ: Mapping[str, str] = os.environ
) -> grpc.ChannelCredentials:
    """What verifies an https:// server.

    Args:
        ca_file: As for `authorities`.
        environ: The environment.

    Raises:
        InvalidRequest: As `authorities`.
    """
    return grpc.ssl_channel_credentials(authorities(ca_file, environ))


def verifying_context(trusted: bytes | None) -> ssl.SSLContext:
    """The same for Python's own TLS.

    Args:
        trusted: Certificate authorities in PEM; None for the system's.

    Raises:
        ssl.SSLError, ValueError: They are no certificates.
    """
    if trusted is None:
        return ssl.create_default_context()
    # create_default_context would take an empty text for none, and trust the system's.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trusted.decode("ascii"))
    return context
