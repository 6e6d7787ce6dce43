"""What a user does with curl."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import Stack


def test_submit_answers_at_once_and_the_watch_url_streams_the_log(stack: Stack) -> None:
    reply = stack.post("/submit", stack.job())
    assert set(reply) == {"job_id", "state", "watch_url"}
    assert reply["watch_url"].endswith(f"/v1/jobs/{reply['job_id']}:watch")

    lines = stack.curl(f"/v1/jobs/{reply['job_id']}:watch").splitlines()
    updates = [json.loads(line) for line in lines]
    events = [update["event"] for update in updates if "event" in update]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert "job_created" in events[0]
    finished = events[-1]["job_finished"]
    assert finished["state"] in ("JOB_STATE_SUCCEEDED", "JOB_STATE_PARTIAL")
    assert finished["answer"]["text"]


def test_watch_as_server_sent_events_from_a_sequence_on(
    stack: Stack, finished_job: dict[str, Any]
) -> None:
    last = finished_job["last_sequence"]
    path = f"/v1/jobs/{finished_job['job_id']}:watch?after_sequence={last - 2}"
    text = stack.curl(path, "-H", "Accept: text/event-stream")

    data = [line.removeprefix("data: ") for line in text.splitlines() if line]
    events = [json.loads(line)["event"] for line in data]
    assert [event["sequence"] for event in events] == [last - 1, last]


def test_wait_answers_with_the_result_within_the_budget(finished_job: dict[str, Any]) -> None:
    ledger = finished_job["ledger"]
    assert finished_job["answer"]["text"]
    assert 0 < ledger["spent_tokens"] <= ledger["budget_tokens"] == 4000
    assert ledger["outstanding_tokens"] == 0
    assert ledger["spent_tokens"] == sum(
        row["call"]["usage"]["prompt_tokens"] + row["call"]["usage"]["completion_tokens"]
        for row in ledger["rows"]
    )
    assert {item["item_id"] for item in finished_job["answer"]["items"]} <= {
        item["item_id"] for item in finished_job["items"]
    }
    assert len(finished_job["agent_timings"]) >= 1


def test_get_and_list_show_the_job(stack: Stack, finished_job: dict[str, Any]) -> None:
    job_id = finished_job["job_id"]

    assert stack.curl_json(f"/v1/jobs/{job_id}")["state"] == finished_job["state"]
    listed = stack.curl_json("/v1/jobs?page_size=500")["jobs"]
    assert job_id in [job["job_id"] for job in listed]


def test_same_request_id_makes_one_job(stack: Stack) -> None:
    body = stack.job(total_budget_tokens=2000)
    first = stack.post("/v1/jobs?request_id=e2e-once", body)
    second = stack.post("/v1/jobs?request_id=e2e-once", body)

    assert first["job_id"] == second["job_id"]


def test_metrics_sum_over_the_fleet(stack: Stack, finished_job: dict[str, Any]) -> None:
    text = stack.curl("/metrics")
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.split("{")[0].split(" ")[0], float(line.rsplit(" ", 1)[1])
            values[name] = values.get(name, 0.0) + value

    assert values["hma_tokens_total"] >= finished_job["ledger"]["spent_tokens"]
    assert "hma_worker_errors_total" in text
    assert values["hma_task_duration_seconds_count"] >= 1


def test_status_says_what_is_up(stack: Stack) -> None:
    status = stack.curl_json("/v1/status")
    states = {part["name"]: part["state"] for part in status["components"]}

    assert states
    assert set(states.values()) == {"COMPONENT_STATE_UP"}, status
    assert status["replicas"] == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"task_description": ""}, "job.task_description"),
        ({"task_description": "x" * 100_001}, "job.task_description"),
        ({"total_budget_tokens": 0}, "job.total_budget_tokens"),
        ({"total_budget_tokens": -5}, "job.total_budget_tokens"),
        ({"total_budget_tokens": 10_000_001}, "job.total_budget_tokens"),
        ({"budget": {"max_tokens": 500, "deadline": "-1s"}}, "job.budget.deadline"),
        ({"policy": {"route": "nowhere"}}, "job.policy.route"),
        ({"documents": [{"name": "a", "content": "/w8="}]}, "job.documents[0]"),
        (
            {
                "plan": {
                    "tasks": [
                        {"id": "a", "instruction": "x", "depends_on": ["b"]},
                        {"id": "b", "instruction": "x", "depends_on": ["a"]},
                    ]
                }
            },
            "job.plan.tasks",
        ),
    ],
)
def test_bad_jobs_are_refused_naming_the_field(
    stack: Stack, changes: dict[str, Any], field: str
) -> None:
    error = stack.post("/v1/jobs", stack.job(**changes))

    assert error["code"] in (3, 9), error
    fields = [
        violation["field"]
        for detail in error["details"]
        for violation in detail.get("field_violations", [])
    ]
    assert any(name.startswith(field) for name in fields), error


@pytest.mark.parametrize(
    ("path", "arguments", "status"),
    [
        ("/v1/jobs/job-00000000000000000000000000", (), 404),
        ("/v1/jobs/no-job-at-all:cancel", ("-d", "{}"), 404),
        ("/v1/jobs", ("-d", '{"task_desc'), 400),
        ("/v1/jobs", ("-d", '{"total_budget_tokens": "many"}'), 400),
        ("/v1/jobs?unknown=1", ("-d", "{}"), 400),
        ("/v2/anything", (), 404),
    ],
)
def test_errors_have_the_right_status_and_a_readable_body(
    stack: Stack, path: str, arguments: tuple[str, ...], status: int
) -> None:
    text = stack.curl(path, "-w", "\n%{http_code}", *arguments)
    body, code = text.rsplit("\n", 1)

    assert int(code) == status, text
    error = json.loads(body)
    assert error["message"]
    assert "Traceback" not in body
