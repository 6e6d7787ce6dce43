"""A key that would go over a network in plain text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from hma import AsyncClient, Client
from hma.client import KeyWarning
from hma.client.connection import Server
from hma.client.plaintext import guard_key
from hma.errors import InvalidRequest, SettingsError

LOCAL = (
    *("localhost:8080", "LOCALHOST", "hma.localhost:80", "127.0.0.1:8080", "127.7.0.1"),
    *("[::1]:8080", "[::ffff:127.0.0.1]:8080", "0.0.0.0:8080", "http://localhost:8080"),
)
ELSEWHERE = (
    *("hma.example.org:8080", "10.0.0.7", "http://192.168.1.5:8080", "[2001:db8::1]:8080"),
    *("localhost.example.org:8080", "127.0.0.1.example.org:8080", "[::ffff:10.0.0.7]:8080"),
)


@pytest.mark.parametrize("address", LOCAL)
def test_loopback_gets_a_key_without_a_word(address: str) -> None:
    guard_key(Server.parse(address), environ={"HMA_PLAINTEXT_KEY": "refuse"})
    guard_key(Server.parse(address), environ={})


@pytest.mark.parametrize("address", ELSEWHERE)
def test_others_get_a_key_with_a_warning_that_says_what_to_do(address: str) -> None:
    server = Server.parse(address)
    with pytest.warns(KeyWarning) as warned:
        guard_key(server, environ={})
    text = str(warned[0].message)
    assert server.target in text
    assert "https://" in text
    assert "HMA_PLAINTEXT_KEY=allow" in text
    guard_key(server, environ={"HMA_PLAINTEXT_KEY": "allow"})
    with pytest.raises(InvalidRequest, match="HMA_PLAINTEXT_KEY"):
        guard_key(server, environ={"HMA_PLAINTEXT_KEY": "refuse"})


def test_tls_carries_a_key_anywhere() -> None:
    guard_key(Server.parse("https://hma.example.org"), environ={"HMA_PLAINTEXT_KEY": "refuse"})


def test_a_setting_that_is_none_is_told_wherever_the_key_goes() -> None:
    for address in ("localhost", "hma.example.org"):
        with pytest.raises(SettingsError, match="HMA_PLAINTEXT_KEY: expected one of"):
            guard_key(Server.parse(address), environ={"HMA_PLAINTEXT_KEY": "no"})


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "credential", [{"api_key": "secret"}, {"metadata": [("X-Api-Key", "secret")]}]
)
async def test_a_client_warns_where_it_is_made(
    kind: Callable[..., Client | AsyncClient], credential: dict[str, object]
) -> None:
    with pytest.warns(KeyWarning) as warned:
        await closed(kind("10.0.0.7:8080", **credential))
    assert Path(warned[0].filename) == Path(__file__)
    assert "secret" not in str(warned[0].message)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_client_without_a_key_has_nothing_to_say(
    kind: Callable[..., Client | AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await closed(kind("10.0.0.7:8080", api_key=""))
        await closed(kind("https://10.0.0.7:8080", api_key="secret"))
    monkeypatch.setenv("HMA_PLAINTEXT_KEY", "refuse")
    with pytest.raises(InvalidRequest, match="HMA_PLAINTEXT_KEY"):
        kind("10.0.0.7:8080", api_key="secret")


async def closed(client: Client | AsyncClient) -> None:
    if isinstance(client, AsyncClient):
        await client.close()
    else:
        client.close()
