"""What the gateway's configuration says about callers."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hma.errors import SettingsError
from hma.local.access_settings import StackAccess

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_RAW = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"


KNOWN_CALLERS = Path(__file__).parents[2] / "gateway" / "known_callers.lua"

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep them: Debian, Red Hat, SUSE, Alpine."""


def system_authorities() -> str:
    """The file with the system's certificate authorities.

    Raises:
        SettingsError: There is none where one is looked for.
    """
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.openssl_cafile, *_BUNDLES):
        if path and Path(path).is_file():
            return path
    raise SettingsError(
        "HMA_JWT_JWKS_CA_FILE: the system's certificate authorities were not found; name a file"
    )


def access_values(access: StackAccess, credential: str) -> dict[str, Any]:
    """Values of the template's placeholders.

    Args:
        access: How callers prove who they are.
        credential: With which the gateway asks the MetaAgent.

    Raises:
        SettingsError: The issuer's server cannot be verified.
    """
    return {
        "authentication": access.required,
        "everybody": not access.required,
        "gateway_credential": credential,
        "known_callers": access.required and access.known_callers > 0,
        "known_callers_lua": f"local KEEP_MS = {round(1000 * access.known_callers)}\n"
        + KNOWN_CALLERS.read_text(),
        "jwt": access.takes_tokens,
        "jwks_from_url": access.takes_tokens and bool(access.jwt_jwks_url),
        "jwt_issuer": access.jwt_issuer,
        "jwt_audience": access.jwt_audience,
        **(_from_url(access) if access.jwt_jwks_url else _from_file(access)),
    }


def _from_file(access: StackAccess) -> dict[str, Any]:
    return {
        "jwks_source": "local_jwks",
        "jwks": {"filename": str(Path(access.jwt_jwks_file).absolute())},
    }


def _from_url(access: StackAccess) -> dict[str, Any]:
    url = access.jwt_jwks_url
    parts = urlsplit(url)
    host = str(parts.hostname)
    secure = parts.scheme == "https"
    address = {"address": host, "port_value": parts.port or (443 if secure else 80)}
    endpoint = {"endpoint": {"address": {"socket_address": address}}}
    return {
        "jwks_source": "remote_jwks",
        "jwks": {
            "http_uri": {"uri": url, "cluster": "jwks", "timeout": "5s"},
            "cache_duration": "600s",
            # An issuer that is away must not keep the gateway from serving callers with keys.
            "async_fetch": {"fast_listener": True},
        },
        "jwks_endpoint": {"cluster_name": "jwks", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "jwks_transport": _tls(host, access.jwt_jwks_ca_file) if secure else _plain(),
    }


def _tls(host: str, authorities: str) -> dict[str, Any]:
    names = [{"san_type": kind, "matcher": {"exact": host}} for kind in ("DNS", "IP_ADDRESS")]
    authorities = authorities or system_authorities()
    validation = {
        "trusted_ca": {"filename": str(Path(authorities).absolute())},
        "match_typed_subject_alt_names": names,
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TLS,
            "sni": host,
            "common_tls_context": {"validation_context": validation},
        },
    }


def _plain() -> dict[str, Any]:
    return {"name": "envoy.transport_sockets.raw_buffer", "typed_config": {"@type": _RAW}}
