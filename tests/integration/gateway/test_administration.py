"""Envoy's admin port: everybody on the machine reaches it."""

from __future__ import annotations

import http.client

import pytest

from tests.integration.gateway.conftest import Gateway


def answered(gateway: Gateway, method: str, path: str) -> int:
    port = gateway.settings.gateway_admin_port
    connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=30)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/ready", "/stats?filter=hma", "/stats/prometheus", "/clusters"])
def test_it_shows_how_envoy_fares(gateway: Gateway, path: str) -> None:
    assert answered(gateway, "GET", path) == 200


@pytest.mark.parametrize(
    "path",
    ["/config_dump", "/config_dump?include_eds", "/ready/../config_dump", "//config_dump", "/"],
)
def test_it_does_not_show_the_gateways_credential(gateway: Gateway, path: str) -> None:
    assert answered(gateway, "GET", path) == 403


@pytest.mark.parametrize(
    "path", ["/quitquitquit", "/healthcheck/fail", "/logging?level=trace", "/drain_listeners"]
)
def test_it_changes_nothing(gateway: Gateway, path: str) -> None:
    assert answered(gateway, "POST", path) == 403
    assert answered(gateway, "GET", "/ready") == 200
