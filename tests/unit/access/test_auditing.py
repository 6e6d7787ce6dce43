"""No RPC is forgotten, and what strangers send is cleaned before it is written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from google.protobuf.descriptor import MethodDescriptor
from prometheus_client import CollectorRegistry

from hma.v1 import admin_pb2, meta_agent_pb2
from services.meta_agent.access.audit_trail import AuditTrail, method_of
from services.meta_agent.access.auditing import MUTATIONS, READS, audited, resource_of
from services.meta_agent.store.audit import AuditBook, AuditRow
from services.meta_agent.store.ids import new_job_id

SERVICES = (
    meta_agent_pb2.DESCRIPTOR.services_by_name["MetaAgentService"],
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
)
RPCS = [method for service in SERVICES for method in service.methods]


@pytest.mark.parametrize("method", RPCS, ids=lambda method: method.name)
def test_every_rpc_is_declared_a_mutation_or_a_read(method: MethodDescriptor) -> None:
    assert (method.name in MUTATIONS) != (method.name in READS), method.full_name
    # HTTP's verb says the same: what is fetched changes nothing.
    [(_, rule)] = [
        (field, value)
        for field, value in method.GetOptions().ListFields()
        if field.full_name == "google.api.http"
    ]
    assert (rule.WhichOneof("pattern") == "get") == (method.name in READS)


def test_nothing_is_declared_that_there_is_not() -> None:
    assert {method.name for method in RPCS} == MUTATIONS | READS


def test_an_rpc_that_nobody_declared_is_not_served() -> None:
    internal = meta_agent_pb2.DESCRIPTOR.services_by_name["InternalService"]
    servicer = SimpleNamespace(**{method.name: None for method in internal.methods})
    trail = AuditTrail(cast(AuditBook, None), CollectorRegistry())
    with pytest.raises(ValueError, match="ReportAttempt changes anything is not declared"):
        audited(servicer, internal, trail, tenant="default")


def test_the_resource_is_what_the_message_names_if_it_can_be_one() -> None:
    job_id = new_job_id()
    assert resource_of(meta_agent_pb2.GetJobRequest(job_id=job_id)) == job_id
    assert resource_of(meta_agent_pb2.CreateJobResponse(job_id=job_id)) == job_id
    assert resource_of(meta_agent_pb2.GetJobRequest(job_id="\x1b[31mfake\n")) == ""
    assert resource_of(admin_pb2.RevokeKeyRequest(key_id="0123456789ab")) == "0123456789ab"
    assert resource_of(admin_pb2.SetQuotaRequest(tenant="acme")) == "acme"
    key = admin_pb2.ApiKey(key_id="0123456789ab", tenant="acme")
    assert resource_of(admin_pb2.CreateKeyResponse(key=key, secret="s")) == "0123456789ab"
    for mistake in (f"hma_0123456789ab_{'s' * 43}", "a b", "x" * 65):
        assert resource_of(admin_pb2.RevokeKeyRequest(key_id=mistake)) == ""


def test_texts_of_strangers_are_cut_and_hold_nothing_but_print() -> None:
    row = AuditRow(method="GET /\x1b[2J\nfake line\u202e\ud800", subject="a" * 10_000)
    assert row.method == "GET /\ufffd[2J\ufffdfake line\ufffd\ufffd"
    assert len(row.subject) == 200
    row = AuditRow(method="GET", request_id=f"hma_0123456789ab_{'s' * 43}", subject="a.eyJhbGciOi")
    assert (row.request_id, row.subject) == ("hma_0123456789ab_***", "a.eyJhbGciOi")


def test_a_refused_path_is_named_without_query_and_key() -> None:
    assert method_of("/hma.v1.MetaAgentService/GetJob") == "GetJob"
    assert method_of("POST /hma.v1.AdminService/CreateKey") == "CreateKey"
    assert method_of("GET /v1/jobs?page_token=secret") == "GET /v1/jobs"
    path = f"POST /v1/keys/hma_0123456789ab_{'s' * 43}:rotate"
    assert method_of(path) == "POST /v1/keys/hma_0123456789ab_***:rotate"
