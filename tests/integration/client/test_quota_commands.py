"""quota and --over-quota on the command line, as processes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import hma
from hma.errors import InvalidRequest
from hma.v1 import admin_pb2, meta_agent_pb2
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent
from tests.integration.client.test_command_line import hma as run_hma


@pytest.fixture
def server() -> Iterator[ScriptedMetaAgent]:
    with ScriptedMetaAgent() as running:
        quota = admin_pb2.Quota(tenant="acme")
        quota.time.FromSeconds(1_700_000_000)
        use = quota.uses.add(name="tokens_per_minute", limit=100_000, used=91_500, held=20_000)
        use.next_free_time.FromSeconds(1_700_000_042)
        quota.uses.add(name="concurrent_jobs", limit=10, used=3, held=3)
        running.servicer.quota = quota
        yield running


def test_a_quota_is_a_table_that_says_when_each_window_frees(server: ScriptedMetaAgent) -> None:
    done = run_hma(server.address, "quota", "--tenant", "acme")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "acme"
    [tokens] = [line for line in lines if "tokens per minute" in line]
    assert tokens.split()[3:7] == ["100,000", "91,500", "20,000", "8,500"]
    assert tokens.rstrip().endswith("in 42 s")
    [jobs] = [line for line in lines if "concurrent jobs" in line]
    assert jobs.rstrip().endswith("when jobs end")


def test_a_quota_for_programs_is_one_line(server: ScriptedMetaAgent) -> None:
    done = run_hma(server.address, "quota", "-o", "json")
    assert [use["used"] for use in json.loads(done.stdout)["uses"]] == [91_500, 3]


def test_a_tenant_without_limits_is_told_so(server: ScriptedMetaAgent) -> None:
    server.servicer.quota = admin_pb2.Quota(tenant="free")
    assert run_hma(server.address, "quota").stdout.strip() == "free: no limits."


@pytest.mark.parametrize(
    "arguments",
    [
        ("quota", "set", "acme"),
        ("quota", "set", "acme", "--tokens-per-minute", "many"),
        ("quota", "set", "acme", "--preset", "huge"),
        ("run", "Who?", "-b", "5k", "--over-quota", "perhaps"),
    ],
)
def test_what_cannot_be_meant_exits_with_2(
    server: ScriptedMetaAgent, arguments: tuple[str, ...]
) -> None:
    assert run_hma(server.address, *arguments).returncode == 2


def test_a_job_may_wait_for_quota(server: ScriptedMetaAgent) -> None:
    done = run_hma(server.address, "submit", "Who?", "-b", "5k", "--over-quota", "wait")
    assert done.returncode == 0
    create = meta_agent_pb2.CreateJobRequest
    [asked] = [r for r in server.servicer.requests if isinstance(r, create)]
    assert asked.over_quota == meta_agent_pb2.OVER_QUOTA_WAIT


def test_the_client_refuses_limits_that_there_are_not() -> None:
    with hma.Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest, match="no such limit"):
        client.set_quota("acme", limits={"tokens": 5})
