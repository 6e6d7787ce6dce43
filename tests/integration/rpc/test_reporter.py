"""Results that were not acknowledged reach a MetaAgent that fails at first."""

from __future__ import annotations

import asyncio
import dataclasses

import grpc
import pytest
from prometheus_client import CollectorRegistry

from hma.rpc.reporter import Reporter, ReporterLimits
from hma.v1 import attempt_pb2, common_pb2, meta_agent_pb2_grpc
from tests.integration.rpc.support import (
    ScriptedInternal,
    serving,
    start_of,
    succeeded,
    until,
)

QUICK = ReporterLimits(first_wait=0.01, longest_wait=0.02, flush=0.2, keep=2)
PATIENT = dataclasses.replace(QUICK, flush=30, keep=30)


def ref(n: int = 1) -> attempt_pb2.AttemptRef:
    return start_of(task_uid=f"1.{n}").attempt.ref


def register(meta_agent: ScriptedInternal):  # type: ignore[no-untyped-def]
    return lambda server: meta_agent_pb2_grpc.add_InternalServiceServicer_to_server(
        meta_agent, server
    )


async def test_a_report_is_retried_until_it_is_taken() -> None:
    meta_agent = ScriptedInternal(
        failures=[
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ]
    )
    async with serving(register(meta_agent)) as channel:
        async with Reporter(channel, PATIENT) as reporter:
            reporter.report(ref(), succeeded(), common_pb2.ROLE_WORKER)
        assert reporter.recorded == 1
        assert reporter.pending == 0
    (request,) = meta_agent.reports
    assert meta_agent.tries == 4
    assert (request.ref, request.result) == (ref(), succeeded())
    assert request.role == common_pb2.ROLE_WORKER


async def test_what_can_never_be_taken_is_not_retried(caplog: pytest.LogCaptureFixture) -> None:
    meta_agent = ScriptedInternal(failures=[grpc.StatusCode.INVALID_ARGUMENT])
    async with serving(register(meta_agent)) as channel, Reporter(channel, PATIENT) as reporter:
        reporter.report(ref(), succeeded(), common_pb2.ROLE_WORKER)
        await until(lambda: reporter.given_up)
    assert meta_agent.tries == 1
    assert "gave up" in caplog.text


async def test_a_report_is_given_up_in_the_end_and_leaving_does_not_hang() -> None:
    channel = grpc.aio.insecure_channel("127.0.0.1:1")
    registry = CollectorRegistry()
    # It would be tried for an hour; leaving waits for a fifth of a second.
    limits = dataclasses.replace(QUICK, keep=3600)
    async with (
        asyncio.timeout(30),
        channel,
        Reporter(channel, limits, registry=registry) as reporter,
    ):
        reporter.report(ref(), succeeded(), common_pb2.ROLE_WORKER)
        assert registry.get_sample_value("hma_reports_pending") == 1
    assert registry.get_sample_value("hma_reports_given_up") == 1
    assert reporter.given_up == 1
    assert reporter.pending == 0


async def test_the_oldest_gives_way_when_too_many_are_pending() -> None:
    meta_agent = ScriptedInternal(failures=[grpc.StatusCode.UNAVAILABLE] * 3)
    limits = ReporterLimits(pending=2, first_wait=0.05, longest_wait=0.1, flush=30)
    async with serving(register(meta_agent)) as channel:
        async with Reporter(channel, limits) as reporter:
            for n in (1, 2, 3):
                reporter.report(ref(n), succeeded(), common_pb2.ROLE_WORKER)
            assert reporter.pending == 2
        assert {request.ref.task_uid for request in meta_agent.reports} == {"1.2", "1.3"}
        assert reporter.given_up == 1
