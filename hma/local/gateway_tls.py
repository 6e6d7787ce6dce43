"""What the gateway's configuration says about certificates. Pure.

Envoy reads certificates from files that it watches (SDS from the file system): it takes a
renewed one for new connections when the file, or a symbolic link in its directory, is
replaced by renaming, as cert-manager and Kubernetes do it. A file that is written in place is
not noticed. Certificate and key may lie in different directories: until both are renewed,
Envoy shows what it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hma.local.tls_settings import StackTls
from hma.rpc.callers import ANALYST, GATEWAY, META_AGENT, REDUCER, WORKER, certificate_name

_TYPES = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_SERVERS = {
    "meta_agent": META_AGENT,
    "meta_agent_access": META_AGENT,
    "analyst": ANALYST,
    "worker": WORKER,
    "reducer": REDUCER,
}

_FOR_CLIENTS = "for_clients"
_BETWEEN_SERVICES = "between_services"
_AUTHORITIES = "authorities"


def secrets(tls: StackTls) -> dict[str, Any]:
    """The files that say where certificates are, by name; Envoy has one for each secret."""
    found: dict[str, dict[str, Any]] = {}
    if tls.for_clients:
        own = _certificate(tls.gateway_cert_file, tls.gateway_key_file)
        found[_FOR_CLIENTS] = {"tls_certificate": own}
    if tls.between_services:
        files = tls.of(GATEWAY)
        own = _certificate(files.cert_file, files.key_file)
        found[_BETWEEN_SERVICES] = {"tls_certificate": own}
        authorities = {
            "trusted_ca": {"filename": files.ca_file},
            "watched_directory": _directory(files.ca_file),
        }
        found[_AUTHORITIES] = {"validation_context": authorities}
    return {
        name: {"resources": [{"@type": f"{_TYPES}.Secret", "name": name, **secret}]}
        for name, secret in found.items()
    }


def secret_path(directory: Path, name: str) -> Path:
    """Where the file of a secret lies."""
    return directory / f"tls-{name}.json"


def add_tls(configuration: Any, tls: StackTls, directory: Path) -> None:
    """Puts certificates into a configuration.

    public listener     shows the gateway's own to clients
    internal listener   takes services of the installation only
    clusters            are believed to be their role, and are shown the gateway's role

    Args:
        configuration: Envoy's, filled; changed in place.
        tls: Which certificates there are.
        directory: Where the files of `secrets` lie.
    """
    resources = configuration["static_resources"]
    sources = {name: _source(directory, name) for name in secrets(tls)}
    if sources:
        # Envoy asks for it wherever secrets come from.
        configuration.setdefault("node", {"id": "gateway", "cluster": "hma"})
    for listener in resources["listeners"]:
        socket = None
        if listener["name"] == "public" and tls.for_clients:
            socket = _to_clients(sources)
        elif listener["name"] == "internal" and tls.between_services:
            socket = _to_services(sources)
        if socket is not None:
            for chain in listener["filter_chains"]:
                chain["transport_socket"] = socket
    if tls.between_services:
        for cluster in resources["clusters"]:
            role = _SERVERS.get(cluster["name"])
            if role is not None:
                cluster["transport_socket"] = _upstream(sources, role)


def _to_clients(sources: Mapping[str, Any]) -> dict[str, Any]:
    own = [sources[_FOR_CLIENTS]]
    return _socket(
        "DownstreamTlsContext",
        {"tls_certificate_sds_secret_configs": own, "alpn_protocols": ["h2", "http/1.1"]},
    )


def _to_services(sources: Mapping[str, Any]) -> dict[str, Any]:
    common = {
        "tls_certificate_sds_secret_configs": [sources[_BETWEEN_SERVICES]],
        "validation_context_sds_secret_config": sources[_AUTHORITIES],
        "alpn_protocols": ["h2"],
    }
    return _socket("DownstreamTlsContext", common, require_client_certificate=True)


def _upstream(sources: Mapping[str, Any], role: str) -> dict[str, Any]:
    name = certificate_name(role)
    names = [{"san_type": "DNS", "matcher": {"exact": name}}]
    common = {
        "tls_certificate_sds_secret_configs": [sources[_BETWEEN_SERVICES]],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": sources[_AUTHORITIES],
        },
        "alpn_protocols": ["h2"],
    }
    return _socket("UpstreamTlsContext", common, sni=name)


def _socket(kind: str, common: dict[str, Any], **more: Any) -> dict[str, Any]:
    # TLS 1.2 by name: Envoy's own least version differs between the two sides.
    versions = {"tls_minimum_protocol_version": "TLSv1_2"}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.{kind}",
            "common_tls_context": {"tls_params": versions, **common},
            **more,
        },
    }


def _source(directory: Path, name: str) -> dict[str, Any]:
    path = {"path": str(secret_path(directory, name))}
    config = {"path_config_source": path, "resource_api_version": "V3"}
    return {"name": name, "sds_config": config}


def _certificate(cert_file: str, key_file: str) -> dict[str, Any]:
    chain, key = Path(cert_file).absolute(), Path(key_file).absolute()
    files = {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(key)}}
    if chain.parent != key.parent:
        # It takes the name of one directory only; without any it watches those of both files.
        return files
    return {**files, "watched_directory": _directory(str(chain))}


def _directory(path: str) -> dict[str, str]:
    return {"path": str(Path(path).absolute().parent)}
