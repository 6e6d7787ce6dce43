"""Certificates in Envoy's configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hma.errors import SettingsError
from hma.local.access import make_internal_key
from hma.local.gateway import render
from hma.local.gateway_tls import secrets
from hma.local.parts import client_environment, parts
from hma.local.secret_files import exposed_files
from hma.local.settings import load_stack

SERVICES = {
    "HMA_TLS_CERT_FILE": "/tls/{role}/tls.crt",
    "HMA_TLS_KEY_FILE": "/tls/{role}/tls.key",
    "HMA_TLS_CA_FILE": "/tls/ca.crt",
}
CLIENTS = {
    "HMA_GATEWAY_TLS_CERT_FILE": "/public/tls.crt",
    "HMA_GATEWAY_TLS_KEY_FILE": "/public/tls.key",
}
ROLES = {
    "meta_agent": "meta-agent",
    "meta_agent_access": "meta-agent",
    "analyst": "analyst",
    "worker": "worker",
    "reducer": "reducer",
}


def rendered(environ: dict[str, str]) -> dict[str, Any]:
    """Listeners and clusters by name, with their transport sockets; None: plain."""
    resources = render(load_stack(environ), Path("/made/hma.protoset"))["static_resources"]
    chains = {each["name"]: each["filter_chains"] for each in resources["listeners"]}
    sockets = {
        name: found[0].get("transport_socket") for name, found in chains.items() if len(found) == 1
    }
    return sockets | {c["name"]: c.get("transport_socket") for c in resources["clusters"]}


def test_without_certificates_everything_is_plain() -> None:
    assert set(rendered({}).values()) == {None}
    assert secrets(load_stack({}).tls) == {}


def test_services_take_the_gateway_and_it_takes_their_role() -> None:
    sockets = rendered(SERVICES)
    assert sockets["public"] is None
    internal = sockets["internal"]["typed_config"]
    assert internal["require_client_certificate"] is True
    assert "validation_context_sds_secret_config" in internal["common_tls_context"]
    for cluster, role in ROLES.items():
        context = sockets[cluster]["typed_config"]["common_tls_context"]
        expected = context["combined_validation_context"]["default_validation_context"]
        assert expected["match_typed_subject_alt_names"] == [
            {"san_type": "DNS", "matcher": {"exact": f"{role}.hma.internal"}}
        ]
        assert context["alpn_protocols"] == ["h2"]
    assert sockets["meta_agent_metrics"] is None


def test_clients_are_shown_a_certificate_and_need_none() -> None:
    sockets = rendered(CLIENTS)
    public = sockets.pop("public")["typed_config"]
    assert "require_client_certificate" not in public
    assert public["common_tls_context"]["alpn_protocols"] == ["h2", "http/1.1"]
    assert set(sockets.values()) == {None}


def test_secrets_name_files_and_hold_none() -> None:
    found = secrets(load_stack({**SERVICES, **CLIENTS}).tls)
    assert set(found) == {"for_clients", "between_services", "authorities"}
    own = found["between_services"]["resources"][0]["tls_certificate"]
    assert own["certificate_chain"] == {"filename": "/tls/gateway/tls.crt"}
    assert own["watched_directory"] == {"path": "/tls/gateway"}
    assert "inline" not in json.dumps(found)


def test_each_part_gets_the_certificate_of_its_role() -> None:
    made = {part.name: part.environment for part in parts(load_stack(SERVICES), SERVICES)}
    files = {name: each.get("HMA_TLS_CERT_FILE") for name, each in made.items()}
    assert files["worker-1"] == "/tls/worker/tls.crt"
    assert files["meta-agent"] == "/tls/meta-agent/tls.crt"
    assert files["analyst"] == "/tls/analyst/tls.crt"


def test_clients_are_told_of_https() -> None:
    assert client_environment(load_stack({}), {})["HMA_SERVER"] == "127.0.0.1:8080"
    secure = client_environment(load_stack(CLIENTS), {})
    assert secure["HMA_SERVER"] == "https://127.0.0.1:8080"


@pytest.mark.parametrize("missing", [*SERVICES, *CLIENTS])
def test_half_a_certificate_is_refused(missing: str) -> None:
    environ = {**SERVICES, **CLIENTS}
    del environ[missing]
    with pytest.raises(SettingsError, match=missing):
        load_stack(environ)


def test_secret_files_that_everybody_can_open_are_told_of(passable: Path) -> None:
    modes = {"worker": 0o644, "reducer": 0o600, "gateway": 0o640, "public": 0o604, "shared": 0o666}
    for name, mode in modes.items():
        file = passable / name
        file.touch()
        file.chmod(mode)
    environ = {
        "HMA_DATA_DIR": str(passable / "var"),
        "HMA_TLS_CERT_FILE": str(passable / "{role}"),
        "HMA_TLS_KEY_FILE": str(passable / "{role}"),
        "HMA_TLS_CA_FILE": str(passable / "shared"),
        "HMA_GATEWAY_TLS_CERT_FILE": str(passable / "shared"),
        "HMA_GATEWAY_TLS_KEY_FILE": str(passable / "public"),
    }
    told = list(exposed_files(load_stack(environ)))
    assert [each.partition(": ")[0] for each in told] == [
        "HMA_TLS_KEY_FILE",
        "HMA_GATEWAY_TLS_KEY_FILE",
    ]
    assert f"{passable / 'worker'} (mode 0644)" in told[0]
    own = load_stack({**environ, "HMA_INTERNAL_KEY_FILE": str(passable / "shared")})
    assert next(exposed_files(own)).startswith("HMA_INTERNAL_KEY_FILE: every user")


def test_what_the_stack_makes_itself_is_not_told_of(tmp_path: Path) -> None:
    settings = load_stack({"HMA_DATA_DIR": str(tmp_path)})
    make_internal_key(settings)
    assert list(exposed_files(settings)) == []
