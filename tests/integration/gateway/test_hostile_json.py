"""Bodies and headers made to hurt, through a real Envoy; and what its log says of them."""

from __future__ import annotations

import gzip
import json
import time

import pytest

from tests.integration.gateway.conftest import Gateway

# What a code of google.rpc is in HTTP.
_REFUSED = (400, 404, 413, 415)


# By name, and packed without their time: two processes that collect them must find the same tests.
_NO_JOBS = {
    "plans without an end": b'{"plan":' * 10_000,
    "lists without an end": b"[" * 100_000,
    "deep lists": b'{"task_description": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep lists in a known field": b'{"plan": {"tasks": [' + b'{"items":[' * 5_000,
    "deep objects": b'{"a": ' * 200 + b"1" + b"}" * 200,
    "packed": gzip.compress(b'{"task_description": "Who?", "total_budget_tokens": 5000}', mtime=0),
    "a bomb": gzip.compress(bytes(100 << 20), mtime=0),
    "half a surrogate pair": b'{"task_description": "\\ud800"}',
    "no UTF-8": b'{"task_description": "\xff\xfe"}',
    "no finite number": b'{"total_budget_tokens": 1e400}',
    "a number too long": b'{"total_budget_tokens": ' + b"9" * 100_000 + b"}",
    "zero bytes": b'{"task_description": "a", "task_description": ' + b"\x00" * 10 + b"}",
}


@pytest.mark.parametrize("body", _NO_JOBS.values(), ids=_NO_JOBS.keys())
def test_a_body_that_is_no_job_is_refused_and_the_gateway_goes_on(
    gateway: Gateway, body: bytes
) -> None:
    seen = len(gateway.backends.meta_agent.requests)
    reply = gateway.http("POST", "/v1/jobs", body, content_encoding="gzip")
    assert reply.status in _REFUSED, reply.body[:200]
    assert json.loads(reply.body)["code"] in (3, 5)
    assert len(reply.body) < 2_000
    assert len(gateway.backends.meta_agent.requests) == seen
    assert gateway.http("GET", "/v1/jobs/job-1").status == 200


def test_a_packed_body_is_not_unpacked(gateway: Gateway) -> None:
    body = gzip.compress(b'{"task_description": "Who?", "total_budget_tokens": 5000}')
    reply = gateway.http("POST", "/v1/jobs", body, content_encoding="gzip")
    assert reply.status == 400


def test_a_name_twice_counts_once_or_is_refused(gateway: Gateway) -> None:
    body = '{"task_description": "one", "task_description": "two", "total_budget_tokens": 5}'
    reply = gateway.http("POST", "/v1/jobs", body)
    assert reply.status in (200, 400)


def test_the_access_log_has_neither_queries_nor_credentials(gateway: Gateway) -> None:
    planted = "planted-0451"
    headers = {
        "authorization": f"Bearer {planted}-bearer",
        "x_api_key": f"{planted}-key",
        "cookie": f"session={planted}-cookie",
        "x_webhook_secret": f"{planted}-webhook",
        "referer": f"https://example.test/?token={planted}-referer",
        "user_agent": "the-secrets-test " + "x" * 200,
    }
    path = f"request_id={planted}-query&page_token={planted}"
    gateway.http("GET", f"/v1/jobs?{path}", **headers)
    gateway.http("POST", f"/submit?task_description={planted}-content", "{}", **headers)
    gateway.http("GET", f"/nowhere?{path}", **headers)

    def lines() -> list[str]:
        return [x for x in gateway.log.read_text().splitlines() if "the-secrets-test" in x]

    end = time.monotonic() + 30
    while len(lines()) < 3:
        assert time.monotonic() < end, "the calls were not logged"
        time.sleep(0.05)
    assert {json.loads(line)["path"] for line in lines()} == {"/v1/jobs", "/submit", "/nowhere"}
    assert all(len(json.loads(line)["user_agent"]) <= 100 for line in lines())
    assert planted not in gateway.log.read_text()


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/keys/{}:revoke"), ("GET", "/v1/jobs/{}"), ("GET", "/nothing/{}")],
)
@pytest.mark.parametrize(
    "planted",
    ["hma_cGwGnelNMd8L_" + "s3CreT" * 7 + "x", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"],
)
def test_a_whole_key_in_a_path_is_not_logged(
    gateway: Gateway, method: str, path: str, planted: str
) -> None:
    mark = f"the-key-test {method} {path} {planted[:3]}"
    body = "{}" if method == "POST" else None
    gateway.http(method, path.format(planted), body, user_agent=mark)

    def lines() -> list[str]:
        return [x for x in gateway.log.read_text().splitlines() if mark in x]

    end = time.monotonic() + 30
    while not lines():
        assert time.monotonic() < end, "the call was not logged"
        time.sleep(0.05)
    assert [json.loads(line)["path"] for line in lines()] == ["***"]
    assert planted not in gateway.log.read_text()
