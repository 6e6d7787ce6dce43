"""Requests are validated by what their protos say."""

from __future__ import annotations

import pytest

from hma.errors import InvalidRequest
from hma.rpc.validation import MOST, Violations, check
from hma.v1 import common_pb2, job_pb2, meta_agent_pb2, task_pb2


def _fields(found: object) -> list[str]:
    return [each.field for each in found]  # type: ignore[attr-defined]


def test_a_required_message_or_text_must_be_there() -> None:
    assert _fields(check(meta_agent_pb2.CreateJobRequest())) == ["job"]
    assert _fields(check(meta_agent_pb2.GetJobRequest())) == ["job_id"]
    assert _fields(check(meta_agent_pb2.GrantBudgetRequest(tokens=1))) == ["job_id"]
    assert check(meta_agent_pb2.GetJobRequest(job_id="j")) == []


def test_paths_lead_through_nested_and_repeated_messages() -> None:
    plan = task_pb2.Plan(tasks=[task_pb2.Task(id="a", instruction="do"), task_pb2.Task(id="b")])
    request = meta_agent_pb2.CreateJobRequest(job=job_pb2.JobSpec(plan=plan))
    assert "job.plan.tasks[1].instruction" in _fields(check(request))
    assert "job.plan.tasks[0].instruction" not in _fields(check(request))
    assert _fields(check(task_pb2.Plan(), "job.plan")) == ["job.plan.tasks"]


def test_an_unknown_enum_value_is_named_with_what_is_allowed() -> None:
    task = task_pb2.Task(id="a", instruction="do", complexity=common_pb2.Complexity.ValueType(77))
    (violation,) = check(task)
    assert violation.field == "complexity"
    assert "77" in violation.description
    assert "COMPLEXITY_HIGH" in violation.description
    listed = meta_agent_pb2.ListJobsRequest(
        states=[job_pb2.JobState.ValueType(1), job_pb2.JobState.ValueType(99)]
    )
    assert _fields(check(listed)) == ["states[1]"]


def test_violations_are_bounded() -> None:
    plan = task_pb2.Plan(tasks=[task_pb2.Task()] * (3 * MOST))
    assert len(check(plan)) == MOST


def test_collected_violations_are_raised_together() -> None:
    found = Violations(check(meta_agent_pb2.GrantBudgetRequest()))
    found.require(True, "fine", "not told")
    found.require(False, "tokens", "must be 1 to 10,000,000")
    found.at_most("x" * 1200, 1000, "reason")
    with pytest.raises(InvalidRequest) as raised:
        found.raise_if_any()
    assert _fields(raised.value.violations) == ["job_id", "tokens", "reason"]
    assert "1,200" in raised.value.violations[-1].description
    Violations().raise_if_any()
