"""What a user does with grpcurl: by reflection, by protoset, and at each service's port."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hma.local.descriptors import write_descriptor_set
from tests.e2e.conftest import BIN, Stack

ENDED = ("JOB_STATE_SUCCEEDED", "JOB_STATE_PARTIAL", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")


def test_list_and_describe_through_the_gateway(stack: Stack) -> None:
    listed = stack.run(BIN / "grpcurl", "-plaintext", stack.address, "list").stdout.split()
    described = stack.run(
        *(BIN / "grpcurl", "-plaintext", stack.address, "describe", "hma.v1.MetaAgentService")
    ).stdout

    assert "hma.v1.MetaAgentService" in listed
    assert "grpc.health.v1.Health" in listed
    assert "rpc InterruptJob" in described


@pytest.mark.parametrize(
    ("role", "service"),
    [
        ("meta_agent", "hma.v1.MetaAgentService"),
        ("analyst", "hma.v1.AnalystService"),
        ("worker", "hma.v1.WorkerService"),
        ("reducer", "hma.v1.ReducerService"),
    ],
)
def test_every_service_has_reflection_and_health(stack: Stack, role: str, service: str) -> None:
    address = f"127.0.0.1:{getattr(stack.settings, f'{role}_port')}"

    listed = stack.run(BIN / "grpcurl", "-plaintext", address, "list").stdout
    health = stack.grpcurl("grpc.health.v1.Health/Check", {"service": service}, address=address)
    assert service in listed.split()
    assert json.loads(health.stdout) == {"status": "SERVING"}


def test_every_public_call(stack: Stack) -> None:
    plan = {"tasks": [{"id": "refunds", "instruction": "Who approves refunds above 200 euros?"}]}
    job = stack.job(plan=plan, task_description="Who approves refunds above 200 euros?")
    created = stack.call("CreateJob", {"job": job, "request_id": "e2e-grpcurl"})
    job_id = {"job_id": created["job_id"]}

    assert created["state"] == "JOB_STATE_QUEUED"
    topped_up = stack.grpcurl("hma.v1.MetaAgentService/GrantBudget", {**job_id, "tokens": 500})
    got = stack.call("GetJob", {**job_id, "wait": "60s"})
    assert got["state"] in ENDED
    if topped_up.returncode == 0:
        assert got["budget"]["max_tokens"] == 4500
    else:
        # The job was quicker than the second grpcurl.
        assert "FailedPrecondition" in topped_up.stderr
    assert [task["task"]["id"] for task in got["tasks"]] == ["refunds"]

    watched = stack.grpcurl("hma.v1.MetaAgentService/WatchJob", job_id)
    assert "job_finished" in watched.stdout or "jobFinished" in watched.stdout
    assert created["job_id"] in json.dumps(stack.call("ListJobs", {"page_size": 500}))
    assert stack.call("GetSystemStatus")["components"]
    for late in ("CancelJob", "InterruptJob"):
        refused = stack.grpcurl(f"hma.v1.MetaAgentService/{late}", job_id)
        assert refused.returncode == 0 or "FailedPrecondition" in refused.stderr, late
    assert stack.call("DeleteJob", job_id) == {}
    gone = stack.grpcurl("hma.v1.MetaAgentService/GetJob", job_id)
    assert "Code: NotFound" in gone.stderr


def test_protoset_serves_those_without_reflection(
    stack: Stack, tmp_path: Path, finished_job: dict[str, Any]
) -> None:
    protoset = tmp_path / "hma.protoset"
    write_descriptor_set(protoset)
    done = stack.grpcurl(
        "hma.v1.MetaAgentService/GetJob", {"job_id": finished_job["job_id"]}, protoset=protoset
    )

    assert finished_job["job_id"] in done.stdout


def test_bad_request_names_the_field(stack: Stack) -> None:
    done = stack.grpcurl("hma.v1.MetaAgentService/CreateJob", {"job": {"task_description": "x"}})

    assert "Code: InvalidArgument" in done.stderr
    assert "google.rpc.BadRequest" in done.stderr
    assert "job.total_budget_tokens" in done.stderr or "job.budget" in done.stderr


def test_internal_service_is_not_public(stack: Stack, tmp_path: Path) -> None:
    protoset = tmp_path / "hma.protoset"
    write_descriptor_set(protoset)
    request = {"job_id": "job-x", "document_id": "d1"}
    done = stack.grpcurl("hma.v1.InternalService/ReadDocument", request, protoset=protoset)

    assert "Code: Unimplemented" in done.stderr
