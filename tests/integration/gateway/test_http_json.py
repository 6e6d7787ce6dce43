"""HTTP/JSON through a real Envoy."""

from __future__ import annotations

import http.client
import json
import time

import pytest

from hma.local.gateway import OPENAPI
from hma.v1 import job_pb2, meta_agent_pb2
from tests.integration.gateway.conftest import Gateway

JOB = json.dumps({"task_description": "Who?", "total_budget_tokens": 5000})


@pytest.mark.parametrize("path", ["/submit", "/v1/jobs"])
def test_body_is_the_job_and_query_holds_the_rest(gateway: Gateway, path: str) -> None:
    reply = gateway.http("POST", f"{path}?wait=1.5s&request_id=r-1", JOB)

    assert reply.status == 200
    assert reply.json() == {
        "job_id": "job-1",
        "state": "JOB_STATE_QUEUED",
        "watch_url": "/v1/jobs/job-1:watch",
    }
    request = gateway.backends.meta_agent.requests[-1]
    assert request.job.task_description == "Who?"
    assert request.job.total_budget_tokens == 5000
    assert request.wait.ToMilliseconds() == 1500
    assert request.request_id == "r-1"


def test_names_stay_as_in_the_protos_and_zeros_are_printed(gateway: Gateway) -> None:
    job = gateway.http("GET", "/v1/jobs/job-7?wait=1s").json()

    assert job["job_id"] == "job-7"
    assert job["last_sequence"] == 3
    assert job["state_reason"] == ""
    assert job["tasks"] == []


def test_explanation_has_a_path_of_its_own(gateway: Gateway) -> None:
    reply = gateway.http("GET", "/v1/jobs/job-7:explain")

    assert reply.status == 200
    explanation = reply.json()
    assert (explanation["job_id"], explanation["sentences"]) == ("job-7", ["So it was."])
    assert explanation["accounts"] == []
    request = gateway.backends.meta_agent.requests[-1]
    assert isinstance(request, meta_agent_pb2.ExplainJobRequest)
    assert request.job_id == "job-7"


def test_repeated_enum_query_parameters_reach_the_service(gateway: Gateway) -> None:
    path = "/v1/jobs?states=JOB_STATE_QUEUED&states=JOB_STATE_RUNNING&page_size=3"

    assert gateway.http("GET", path).status == 200

    request = gateway.backends.meta_agent.requests[-1]
    assert list(request.states) == [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING]
    assert request.page_size == 3


def test_usage_is_a_question_in_the_query(gateway: Gateway) -> None:
    path = (
        "/v1/usage?by=USAGE_GROUPING_DAY&by=USAGE_GROUPING_ROUTE&page_size=3"
        "&start_time=2026-11-01T00:00:00Z"
    )

    reply = gateway.http("GET", path)

    assert reply.status == 200
    assert reply.json()["rows"][0]["route"] == "fast"
    assert reply.json()["total"]["calls"] == "2"
    request = gateway.backends.meta_agent.requests[-1]
    assert list(request.by) == [
        meta_agent_pb2.USAGE_GROUPING_DAY,
        meta_agent_pb2.USAGE_GROUPING_ROUTE,
    ]
    assert request.page_size == 3
    assert request.start_time.ToJsonString() == "2026-11-01T00:00:00Z"


def test_money_is_granted_in_the_body(gateway: Gateway) -> None:
    assert gateway.http("POST", "/v1/jobs/job-7:grant", '{"cost": 0.25}').status == 200

    request = gateway.backends.meta_agent.requests[-1]
    assert (request.job_id, request.tokens, request.cost) == ("job-7", 0, 0.25)


def test_error_of_the_service_keeps_status_message_and_details(gateway: Gateway) -> None:
    reply = gateway.http("GET", "/v1/jobs/job-missing")

    assert reply.status == 404
    assert reply.json() == {
        "code": 5,
        "message": "No job job-missing.",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "NOT_FOUND",
                "domain": "hma",
                "metadata": {},
            }
        ],
    }


def test_a_refusal_for_want_of_room_is_429_and_says_when_to_come_back(gateway: Gateway) -> None:
    reply = gateway.http("POST", "/v1/jobs?request_id=too-many", JOB)

    assert reply.status == 429
    assert reply.headers["retry-after"] == "5"
    assert {detail["@type"].rpartition(".")[2] for detail in reply.json()["details"]} == {
        "ErrorInfo",
        "RetryInfo",
    }


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://localhost.evil.test"])
@pytest.mark.parametrize("path", ["/submit", "/v1/jobs"])
def test_without_keys_foreign_web_pages_start_nothing(
    gateway: Gateway, origin: str, path: str
) -> None:
    reply = gateway.http("POST", path, JOB, origin=origin, content_type="text/plain")
    assert reply.status == 403, reply.body
    own = gateway.http("POST", path, JOB, origin="http://localhost:3000", content_type="text/plain")
    assert own.status == 200, own.body


def test_a_job_over_quota_is_429_with_the_limit_and_what_is_left(gateway: Gateway) -> None:
    reply = gateway.http("POST", "/v1/jobs?request_id=over-quota", JOB)

    assert reply.status == 429
    assert {
        name: reply.headers.get(name)
        for name in (
            "retry-after",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
        )
    } == {
        "retry-after": "7",
        "x-ratelimit-limit": "900",
        "x-ratelimit-remaining": "12",
        "x-ratelimit-reset": "7",
    }
    [failure] = [d for d in reply.json()["details"] if d["@type"].endswith("QuotaFailure")]
    assert failure["violations"][0]["subject"] == "tenant:acme/tokens_per_minute"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "words"),
    [
        ("POST", "/v1/jobs", '{"task_descr', 400, 3, "quote expected"),
        ("POST", "/v1/jobs", '{"total_budget_tokens": "x"}', 400, 3, "job.total_budget_tokens"),
        ("POST", "/v1/jobs?wait=soon", JOB, 400, 3, "wait"),
        ("POST", "/v1/jobs?nonsense=1", JOB, 400, 3, "nonsense"),
        ("GET", "/v2/jobs", None, 404, 5, "/v1/jobs"),
        ("PUT", "/v1/jobs", JOB, 404, 5, "PUT"),
        ("GET", "/v1/jobs/a%2Fb", None, 400, 3, "escaped slash"),
        ("POST", "/hma.v1.InternalService/ReportAttempt", "{}", 404, 5, "Nothing answers"),
    ],
)
def test_gateway_errors_are_json_status_objects(
    gateway: Gateway, method: str, path: str, body: str | None, status: int, code: int, words: str
) -> None:
    reply = gateway.http(method, path, body)

    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()
    assert error["code"] == code
    assert words in error["message"]
    assert error["details"] == []


def test_thirty_two_mib_of_base64_pass_and_more_than_48_mib_are_refused(gateway: Gateway) -> None:
    text = "a" * ((32 << 20) * 4 // 3)
    passed = gateway.http("POST", "/v1/jobs", json.dumps({"task_description": text}))
    refused = gateway.http("POST", "/v1/jobs", b" " * (49 << 20))

    assert passed.status == 200
    assert len(gateway.backends.meta_agent.requests[-1].job.task_description) == len(text)
    assert refused.status == 413
    assert "48 MiB" in refused.json()["message"]


@pytest.mark.parametrize(
    ("accept", "content_type", "prefix"),
    [
        ("application/json", "application/json", b""),
        ("text/event-stream", "text/event-stream", b"data: "),
    ],
)
def test_watch_streams_each_event_as_it_happens(
    gateway: Gateway, accept: str, content_type: str, prefix: bytes
) -> None:
    gateway.backends.meta_agent.release.clear()
    connection = http.client.HTTPConnection(gateway.address, timeout=30)
    connection.request(
        "GET", "/v1/jobs/job-held:watch?after_sequence=0", headers={"accept": accept}
    )
    response = connection.getresponse()

    first = response.readline()
    # Only now is the second event made: nothing held the first one back.
    gateway.backends.meta_agent.release.set()
    rest = [line for line in response.read().splitlines() if line]
    connection.close()

    assert response.headers["content-type"] == content_type
    assert first.startswith(prefix + b'{"event":')
    events = [json.loads(line.removeprefix(prefix))["event"] for line in (first, *rest)]
    assert [event["sequence"] for event in events] == [1, 2]
    assert events[1]["state_changed"]["reason"] == "line 2"


def test_metrics_are_the_fleet_s(gateway: Gateway) -> None:
    reply = gateway.http("GET", "/metrics")

    assert (reply.status, reply.body) == (200, b"hma_tokens_total 7\n")
    assert reply.headers["content-type"].startswith("text/plain")


def test_the_gateway_publishes_what_can_be_called(gateway: Gateway) -> None:
    reply = gateway.http("GET", "/openapi.json")

    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.body == OPENAPI.read_bytes()


def test_healthz_says_serving(gateway: Gateway) -> None:
    reply = gateway.http("GET", "/healthz")

    assert (reply.status, reply.json()) == (200, {"status": "SERVING"})


def test_access_log_is_one_json_object_a_line(gateway: Gateway) -> None:
    gateway.http("GET", "/v1/jobs/job-logged", user_agent="the-log-test")

    end = time.monotonic() + 30
    while not (lines := [x for x in gateway.log.read_text().splitlines() if "the-log-test" in x]):
        assert time.monotonic() < end, "the call was not logged"
        time.sleep(0.05)
    entry = json.loads(lines[-1])
    assert entry["path"] == "/v1/jobs/job-logged"
    assert (entry["status"], entry["grpc_status"]) == (200, "OK")


def test_headers_that_only_the_gateway_sets_do_not_come_in(gateway: Gateway) -> None:
    forged = {"x_hma_identity": "a", "X_HMA_Caller": "b", "x_hma_tenant": "c", "x_other": "d"}
    assert gateway.http("GET", "/v1/jobs/job-1", **forged).status == 200
    arrived = gateway.backends.meta_agent.metadata[-1]
    assert arrived["x-other"] == "d"
    assert [name for name in arrived if name.startswith("x-hma-")] == []
