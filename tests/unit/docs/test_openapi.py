"""gateway/openapi.json says what can be called by HTTP, as OpenAPI does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf import json_format
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from hma.v1 import admin_pb2, common_pb2, job_pb2, meta_agent_pb2

ROOT = Path(__file__).parents[3]
_SERVICES = (
    meta_agent_pb2.DESCRIPTOR.services_by_name["MetaAgentService"],
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
)


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads((ROOT / "gateway" / "openapi.json").read_text(encoding="utf-8"))


def test_it_is_a_valid_document(document: Any) -> None:
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_every_binding_of_every_public_method_is_an_operation(document: Any) -> None:
    wanted = set()
    for service in _SERVICES:
        for method in service.methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            for each in (rule, *rule.additional_bindings):
                verb = each.WhichOneof("pattern")
                wanted.add((verb, getattr(each, verb)))

    described = {(verb, path) for path, verbs in document["paths"].items() for verb in verbs}
    assert described == wanted
    operations = [each for verbs in document["paths"].values() for each in verbs.values()]
    ids = [each["operationId"] for each in operations]
    assert len(set(ids)) == len(ids)
    assert all(
        each["summary"] and {"200", "429", "401"} <= set(each["responses"]) for each in operations
    )


def test_internal_services_are_not_in_it(document: Any) -> None:
    text = json.dumps(document)

    assert "InternalService" not in text
    assert "ReportAttempt" not in text


def test_path_body_and_query_are_where_the_transcoder_looks_for_them(document: Any) -> None:
    create = document["paths"]["/v1/jobs"]["post"]
    cancel = document["paths"]["/v1/jobs/{job_id}:cancel"]["post"]

    assert _schema(create) == {"$ref": "#/components/schemas/JobSpec"}
    assert [(each["name"], each["in"]) for each in create["parameters"]] == [
        ("request_id", "query"),
        ("wait", "query"),
        ("over_quota", "query"),
    ]
    assert [(each["name"], each["in"]) for each in cancel["parameters"]] == [("job_id", "path")]
    body = document["components"]["schemas"]["CancelJobBody"]
    assert set(body["properties"]) == {"request_id", "reason"}


def test_required_fields_are_required(document: Any) -> None:
    assert "task_description" in document["components"]["schemas"]["JobSpec"]["required"]


@pytest.mark.parametrize(
    "message",
    [
        meta_agent_pb2.GetUsageResponse(total=meta_agent_pb2.UsageRow(calls=2**60, cost=0.5)),
        meta_agent_pb2.WatchJobResponse(event=job_pb2.JobEvent(sequence=3)),
        job_pb2.Job(job_id="job-1", state=job_pb2.JOB_STATE_RUNNING),
        admin_pb2.ListAuditEntriesResponse(entries=[admin_pb2.AuditEntry(entry_id=7)]),
    ],
    ids=lambda message: message.DESCRIPTOR.name,
)
def test_messages_in_json_fit_their_schemas(document: Any, message: Any) -> None:
    if isinstance(message, job_pb2.Job):
        message.create_time.GetCurrentTime()
    data = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )

    assert list(_validator(document, message.DESCRIPTOR.name).iter_errors(data)) == []


def test_values_of_the_wrong_kind_do_not_fit(document: Any) -> None:
    validator = _validator(document, "UsageRow")

    assert list(validator.iter_errors({"calls": 3}))
    assert list(validator.iter_errors({"cost": "much"}))
    assert list(_validator(document, "JobState").iter_errors("JOB_STATE_ASLEEP"))


def test_every_value_of_an_enum_is_named_and_explained(document: Any) -> None:
    schema = document["components"]["schemas"]["FailureClass"]

    assert schema["enum"] == list(common_pb2.FailureClass.keys())
    assert all(f"`{name}`: " in schema["description"] for name in schema["enum"])


def _schema(operation: Any) -> Any:
    return operation["requestBody"]["content"]["application/json"]["schema"]


def _validator(document: Any, name: str) -> OAS31Validator:
    reference = {"$ref": f"#/components/schemas/{name}"}
    return OAS31Validator({**reference, "components": document["components"]})
