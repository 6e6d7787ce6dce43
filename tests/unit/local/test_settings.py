"""The table of ports."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from hma.errors import SettingsError
from hma.local.gateway import render
from hma.local.parts import client_environment, parts
from hma.local.settings import StackSettings, load_stack
from hma.settings import describe


def test_zero_means_a_free_port_and_workers_get_adjacent_ones() -> None:
    settings = load_stack({"HMA_GATEWAY_PORT": "0", "HMA_WORKER_PORT": "0"})

    ports = [port for _, _, port in settings.ports()]
    assert 0 not in ports
    assert len(set(ports)) == len(ports)
    assert settings.meta_agent_port == 50051


def test_wrong_port_names_the_variable() -> None:
    with pytest.raises(SettingsError, match="HMA_GATEWAY_PORT: expected a port"):
        load_stack({"HMA_GATEWAY_PORT": "70000"})


@pytest.mark.parametrize(
    ("environ", "embedded"),
    [
        ({}, {"database", "llm"}),
        ({"HMA_LLM_BASE_URL": "http://vllm:8000/v1"}, {"database"}),
        ({"HMA_ROUTES_FILE": "routes.toml"}, {"database"}),
        ({"HMA_DATABASE_URL": "postgresql://db/hma"}, {"llm"}),
    ],
)
def test_what_the_user_brings_is_not_embedded(environ: dict[str, str], embedded: set[str]) -> None:
    names = {part.name for part in parts(load_stack(environ), environ)}

    assert names & {"database", "llm"} == embedded


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_the_embedded_model_which_asks_for_no_key_is_on_loopback(host: str) -> None:
    environ = {"HMA_HOST": host}
    table = {part.name: part for part in parts(load_stack(environ), environ)}

    assert table["llm"].command[-2:] == ["127.0.0.1", "8090"]
    assert table["worker-1"].environment["HMA_HOST"] == host


def test_every_part_is_told_its_own_ports_and_the_internal_listener() -> None:
    environ = {"HMA_WORKER_PORT": "6000", "HMA_GATEWAY_INTERNAL_PORT": "7000"}
    table = {part.name: part for part in parts(load_stack(environ), environ)}

    second = table["worker-2"].environment
    assert (second["HMA_WORKER_PORT"], second["HMA_WORKER_METRICS_PORT"]) == ("6001", "9105")
    meta_agent = table["meta-agent"].environment
    assert meta_agent["HMA_WORKER_ADDRESS"] == "127.0.0.1:7000"
    assert meta_agent["HMA_DATABASE_URL"].startswith("postgresql://")


def test_replicas_have_ports_names_and_logs_of_their_own() -> None:
    environ = {
        "HMA_LOCAL_META_AGENTS": "3",
        "HMA_META_AGENT_PORT": "7000",
        "HMA_META_AGENT_METRICS_PORT": "7100",
    }
    table = {part.name: part for part in parts(load_stack(environ), environ)}

    third = table["meta-agent-3"]
    assert third.log.name == "meta-agent-3.log"
    assert third.environment["HMA_REPLICA_NAME"] == "meta-agent-3"
    assert third.environment["HMA_META_AGENT_PORT"] == "7200"
    assert third.environment["HMA_META_AGENT_METRICS_PORT"] == "7300"
    everywhere = "ipv4:127.0.0.1:7000,127.0.0.1:7100,127.0.0.1:7200"
    assert table["worker-1"].environment["HMA_META_AGENT_ADDRESS"] == everywhere
    described = [part for _, part, _ in load_stack(environ).ports()]
    assert "meta_agent_port of meta-agent-3" in described


def test_replicas_get_free_ports_as_workers_do() -> None:
    settings = load_stack(
        {
            "HMA_LOCAL_META_AGENTS": "2",
            "HMA_META_AGENT_PORT": "0",
            "HMA_META_AGENT_METRICS_PORT": "0",
        }
    )

    ports = [port for variable, _, port in settings.ports() if "META_AGENT" in variable]
    assert len(set(ports)) == 4
    assert 0 not in ports


def test_several_replicas_need_no_other_ports_to_be_set() -> None:
    settings = load_stack({"HMA_LOCAL_META_AGENTS": "4", "HMA_LOCAL_WORKERS": "4"})

    ports = [port for _, _, port in settings.ports()]
    assert len(set(ports)) == len(ports)


def test_one_meta_agent_is_called_as_before() -> None:
    environ = {"HMA_HOST": "localhost"}
    table = {part.name: part for part in parts(load_stack(environ), environ)}

    assert "HMA_REPLICA_NAME" not in table["meta-agent"].environment
    assert table["worker-1"].environment["HMA_META_AGENT_ADDRESS"] == "localhost:50051"


@pytest.mark.parametrize(("host", "scheme"), [("localhost", "ipv"), ("::1", "ipv6:[::1]:")])
def test_services_find_all_replicas_under_any_kind_of_host(host: str, scheme: str) -> None:
    environ = {"HMA_HOST": host, "HMA_LOCAL_META_AGENTS": "2"}
    table = {part.name: part for part in parts(load_stack(environ), environ)}

    assert table["reducer"].environment["HMA_META_AGENT_ADDRESS"].startswith(scheme)


def test_what_the_user_has_set_wins_over_the_stack_s_choices() -> None:
    environ = {"HMA_BENCHMARK_LOG": "mine.csv"}
    table = {part.name: part for part in parts(load_stack(environ), environ)}

    assert table["meta-agent"].environment["HMA_BENCHMARK_LOG"] == "mine.csv"
    assert table["meta-agent"].environment["HMA_DRAIN_DELAY"] == "0s"


def test_clients_are_told_where_the_gateway_is() -> None:
    settings = load_stack({"HMA_HOST": "0.0.0.0", "HMA_GATEWAY_PORT": "9999"})

    assert client_environment(settings, {})["HMA_SERVER"] == "127.0.0.1:9999"


@pytest.mark.parametrize(
    ("bound", "address"),
    [
        ("0.0.0.0", "127.0.0.1:8080"),
        ("192.0.2.1", "192.0.2.1:8080"),
        ("::", "[::1]:8080"),
        ("", "127.0.0.1:8080"),
    ],
)
def test_the_gateways_host_opens_the_door_alone(bound: str, address: str) -> None:
    environ = {"HMA_GATEWAY_HOST": bound}
    settings = load_stack(environ)
    table = {part.name: part for part in parts(settings, environ)}

    assert client_environment(settings, {})["HMA_SERVER"] == address
    assert settings.gateway_url == f"http://{address}"
    for part in ("meta-agent", "analyst", "worker-1", "reducer"):
        assert table[part].environment["HMA_HOST"] == "127.0.0.1"
    listeners = render(settings, Path("/x"))["static_resources"]["listeners"]
    bound_at = [each["address"]["socket_address"]["address"] for each in listeners]
    assert bound_at == [bound or "127.0.0.1", "127.0.0.1"]


def test_the_gateway_binds_what_all_bind_unless_it_is_told_otherwise() -> None:
    assert load_stack({"HMA_HOST": "0.0.0.0"}).public_host == "0.0.0.0"
    inside = load_stack({"HMA_HOST": "0.0.0.0", "HMA_GATEWAY_HOST": "127.0.0.1"})
    assert (inside.host, inside.public_host) == ("0.0.0.0", "127.0.0.1")


@pytest.mark.parametrize("bound", ["localhost", "[::1]", "hma.example.org", "0.0.0.0:8080"])
def test_the_gateway_binds_addresses_only(bound: str) -> None:
    with pytest.raises(SettingsError, match="HMA_GATEWAY_HOST: expected an IP address"):
        load_stack({"HMA_GATEWAY_HOST": bound})


@pytest.mark.parametrize("variable", ["HMA_HOST", "HMA_GATEWAY_HOST"])
def test_without_authentication_no_listener_leaves_loopback(variable: str) -> None:
    environ = {"HMA_AUTH": "none", variable: "0.0.0.0"}
    with pytest.raises(SettingsError, match=rf"HMA_AUTH: none .*0\.0\.0\.0.*\({variable}\)"):
        load_stack(environ)
    assert load_stack({**environ, "HMA_AUTH_NONE_ANYWHERE": "true"})
    assert load_stack({variable: "0.0.0.0"})


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("services.analyst.settings", "AnalystSettings"),
        ("services.meta_agent.settings", "MetaAgentSettings"),
        ("services.reducer.settings", "ReducerSettings"),
        ("services.worker.settings", "WorkerSettings"),
    ],
)
def test_services_declare_the_same_defaults(module: str, name: str) -> None:
    table = {each.variable: each.default for each in describe(StackSettings)}
    declared = describe(getattr(importlib.import_module(module), name))

    own = {each.variable: each.default for each in declared if each.variable.endswith("_PORT")}
    assert own
    assert own == {variable: table[variable] for variable in own}


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HMA_GATEWAY_PORT", "18080")

    assert load_stack().gateway_port == 18080
