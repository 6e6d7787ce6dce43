"""What the gateway's configuration says about callers."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hma.errors import SettingsError
from hma.local.access import make_internal_key
from hma.local.gateway import command, render, write_configuration
from hma.local.settings import load_stack

TOKENS = {"HMA_JWT_ISSUER": "https://id.test", "HMA_JWT_AUDIENCE": "hma"}


def rendered(**environ: str) -> Any:
    return render(load_stack(environ), Path("/x"), "gateway.credential")


def filters(configuration: Any, listener: int = 0) -> list[str]:
    manager = configuration["static_resources"]["listeners"][listener]["filter_chains"][0]
    config = manager["filters"][0]["typed_config"]
    return [each["name"].rpartition(".")[2] for each in config["http_filters"]]


def test_callers_are_known_before_a_body_is_read() -> None:
    names = filters(rendered())
    assert names.index("ext_authz") < names.index("buffer") < names.index("grpc_json_transcoder")
    assert "jwt_authn" not in names
    with_tokens = filters(rendered(**TOKENS, HMA_JWT_JWKS_FILE="/keys.json"))
    assert with_tokens.index("jwt_authn") + 1 == with_tokens.index("ext_authz")


def test_without_authentication_nobody_is_asked_and_nothing_secret_is_written() -> None:
    configuration = rendered(HMA_AUTH="none")
    assert "ext_authz" not in filters(configuration)
    assert "gateway.credential" not in json.dumps(configuration)
    # Headers that only the gateway sets are taken off all the same.
    assert "x-hma-" in json.dumps(configuration)


def test_the_internal_listener_asks_nobody() -> None:
    assert filters(rendered(), listener=1) == ["router"]


def test_keys_of_an_issuer_come_over_verified_tls() -> None:
    configuration = rendered(
        **TOKENS,
        HMA_JWT_JWKS_URL="https://id.test:8443/keys",
        HMA_JWT_JWKS_CA_FILE="/etc/authorities.pem",
    )
    cluster = configuration["static_resources"]["clusters"][-1]
    assert cluster["name"] == "jwks"
    assert cluster["transport_socket"]["typed_config"]["sni"] == "id.test"
    validation = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    assert validation["validation_context"]["trusted_ca"] == {"filename": "/etc/authorities.pem"}
    assert "only_if" not in json.dumps(configuration)


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"HMA_JWT_ISSUER": "https://id.test"}, "HMA_JWT_AUDIENCE"),
        ({"HMA_JWT_JWKS_FILE": "/keys.json"}, "HMA_JWT_ISSUER"),
        (TOKENS, "HMA_JWT_JWKS_FILE"),
        (TOKENS | {"HMA_JWT_JWKS_FILE": "/k", "HMA_JWT_JWKS_URL": "http://k"}, "exactly one"),
        (TOKENS | {"HMA_JWT_JWKS_URL": "ftp://id.test"}, "HMA_JWT_JWKS_URL"),
        ({"HMA_AUTH": "off"}, "HMA_AUTH"),
        ({"HMA_AUTH": "none", "HMA_HOST": "0.0.0.0"}, "HMA_AUTH"),
    ],
)
def test_half_a_setting_is_none(environ: dict[str, str], variable: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        load_stack(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HMA_AUTH": "none"},
        TOKENS | {"HMA_JWT_JWKS_URL": "https://id.test/keys"},
        TOKENS | {"HMA_JWT_JWKS_URL": "http://id.test/keys"},
    ],
)
def test_envoy_takes_the_configuration(environ: dict[str, str], tmp_path: Path) -> None:
    settings = load_stack({**environ, "HMA_DATA_DIR": str(tmp_path)})
    make_internal_key(settings)
    path = write_configuration(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    done = subprocess.run(
        [*command(path), "--mode", "validate"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_an_internal_key_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    settings = load_stack({"HMA_DATA_DIR": str(tmp_path)})
    path = make_internal_key(settings)
    first = path.read_text()
    assert make_internal_key(settings) == path
    assert path.read_text() == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    own = load_stack({"HMA_DATA_DIR": str(tmp_path), "HMA_INTERNAL_KEY_FILE": "nowhere"})
    with pytest.raises(SettingsError, match="nowhere"):
        make_internal_key(own)
