"""What the gateway publishes about its HTTP surface is what it does."""

from __future__ import annotations

from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator

from tests.e2e.conftest import Stack

_ERROR = {"$ref": "#/components/responses/404"}


@pytest.fixture(scope="module")
def document(stack: Stack) -> Any:
    """The document, as a client gets it."""
    return stack.curl_json("/openapi.json")


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/v1/jobs", "/v1/jobs?page_size=3"),
        ("/v1/jobs/{job_id}", "/v1/jobs/{job_id}"),
        ("/v1/jobs/{job_id}:explain", "/v1/jobs/{job_id}:explain"),
        ("/v1/usage", "/v1/usage?by=USAGE_GROUPING_DAY"),
        ("/v1/status", "/v1/status"),
    ],
)
def test_answers_fit_their_schemas(
    stack: Stack, document: Any, finished_job: dict[str, Any], template: str, path: str
) -> None:
    answer = stack.curl_json(path.format(**finished_job))

    content = document["paths"][template]["get"]["responses"]["200"]["content"]
    faults = _faults(document, content["application/json"]["schema"], answer)
    assert faults == []


def test_errors_fit_theirs(stack: Stack, document: Any) -> None:
    error = stack.curl_json("/v1/jobs/job-00000000000000000000000000")

    assert document["paths"]["/v1/jobs/{job_id}"]["get"]["responses"]["404"] == _ERROR
    content = document["components"]["responses"]["404"]["content"]
    assert error["code"] == 5
    assert _faults(document, content["application/json"]["schema"], error) == []


def test_a_job_that_fits_the_schema_is_accepted(stack: Stack, document: Any) -> None:
    operation = document["paths"]["/v1/jobs"]["post"]
    job = stack.job(total_budget_tokens=2000)
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert _faults(document, schema, job) == []

    names = [each["name"] for each in operation["parameters"] if each["in"] == "query"]
    assert "request_id" in names
    assert stack.post("/v1/jobs?request_id=by-openapi", job)["job_id"]


def _faults(document: Any, schema: Any, value: Any) -> list[str]:
    validator = OAS31Validator({**schema, "components": document["components"]})
    return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(value)]
