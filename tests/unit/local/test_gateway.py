"""Envoy's configuration, before Envoy reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hma.local.descriptors import descriptor_set
from hma.local.gateway import render
from hma.local.settings import load_stack


@pytest.fixture
def configuration() -> Any:
    """The configuration for some settings."""
    environ = {"HMA_LOCAL_WORKERS": "3", "HMA_WORKER_PORT": "6000", "HMA_GATEWAY_PORT": "8888"}
    return render(load_stack(environ), Path("/somewhere/hma.protoset"))


def test_no_placeholder_and_no_anchor_is_left(configuration: Any) -> None:
    text = json.dumps(configuration)

    assert "${" not in text
    assert "<<" not in text


def test_all_workers_stand_behind_one_cluster(configuration: Any) -> None:
    clusters = {each["name"]: each for each in configuration["static_resources"]["clusters"]}
    endpoints = clusters["worker"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ports = [each["endpoint"]["address"]["socket_address"]["port_value"] for each in endpoints]

    assert ports == [6000, 6001, 6002]
    assert clusters["worker"]["lb_policy"] == "LEAST_REQUEST"


def test_all_replicas_stand_behind_one_cluster_and_any_answers_for_the_fleet() -> None:
    environ = {"HMA_LOCAL_META_AGENTS": "2", "HMA_META_AGENT_PORT": "7000"}
    configuration = render(load_stack(environ), Path("/x"))
    clusters = {each["name"]: each for each in configuration["static_resources"]["clusters"]}

    def ports(name: str) -> list[int]:
        endpoints = clusters[name]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        return [each["endpoint"]["address"]["socket_address"]["port_value"] for each in endpoints]

    assert ports("meta_agent") == [7000, 7100]
    assert ports("meta_agent_metrics") == [9101, 9201]


def test_a_rate_of_zero_is_no_limit() -> None:
    off = {f"HMA_GATEWAY_TENANT_{group}_RATE": "0" for group in ("READ", "MUTATION", "STREAM")}
    values = load_stack(off).limits.template_values()

    assert values["tenant_buckets"] == []
    assert len(values["address_buckets"]) == 1


def test_a_bucket_holds_what_the_burst_says() -> None:
    values = load_stack(
        {"HMA_GATEWAY_ADDRESS_RATE": "7", "HMA_GATEWAY_BURST": "2.5s"}
    ).limits.template_values()

    bucket = values["address_buckets"][0]["token_bucket"]
    assert (bucket["max_tokens"], bucket["tokens_per_fill"]) == (18, 7)


def test_administration_is_on_loopback_whatever_the_host() -> None:
    settings = load_stack({"HMA_HOST": "0.0.0.0"})
    configuration = render(settings, Path("/x"))

    admin = configuration["admin"]["address"]["socket_address"]
    public = configuration["static_resources"]["listeners"][0]["address"]["socket_address"]
    assert admin["address"] == "127.0.0.1"
    assert public["address"] == "0.0.0.0"


def test_descriptor_set_holds_every_import_before_its_importer() -> None:
    seen: set[str] = set()
    for file in descriptor_set().file:
        assert set(file.dependency) <= seen, file.name
        seen.add(file.name)

    assert {"hma/v1/meta_agent.proto", "hma/v1/worker.proto"} <= seen
    # Without these Envoy answers errors that carry details with an empty body.
    assert {"google/rpc/status.proto", "google/rpc/error_details.proto"} <= seen
