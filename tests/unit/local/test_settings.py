"""The table of ports."""

from __future__ import annotations

import importlib
import os

import pytest

from hma.errors import SettingsError
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


def test_every_part_is_told_its_own_ports_and_the_internal_listener() -> None:
    environ = {"HMA_WORKER_PORT": "6000", "HMA_GATEWAY_INTERNAL_PORT": "7000"}
    table = {part.name: part for part in parts(load_stack(environ), environ)}

    second = table["worker-2"].environment
    assert (second["HMA_WORKER_PORT"], second["HMA_WORKER_METRICS_PORT"]) == ("6001", "9105")
    meta_agent = table["meta-agent"].environment
    assert meta_agent["HMA_WORKER_ADDRESS"] == "127.0.0.1:7000"
    assert meta_agent["HMA_DATABASE_URL"].startswith("postgresql://")


def test_what_the_user_has_set_wins_over_the_stack_s_choices() -> None:
    environ = {"HMA_BENCHMARK_LOG": "mine.csv"}
    table = {part.name: part for part in parts(load_stack(environ), environ)}

    assert table["meta-agent"].environment["HMA_BENCHMARK_LOG"] == "mine.csv"
    assert table["meta-agent"].environment["HMA_DRAIN_DELAY"] == "0s"


def test_clients_are_told_where_the_gateway_is() -> None:
    settings = load_stack({"HMA_HOST": "0.0.0.0", "HMA_GATEWAY_PORT": "9999"})

    assert client_environment(settings, {})["HMA_SERVER"] == "127.0.0.1:9999"


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
