"""What the MetaAgent answers the gateway, and whom it serves itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hma.errors import Unauthenticated
from hma.ext_authz.v1 import ext_authz_pb2
from hma.rpc.status import from_rpc_error
from hma.rpc.tokens import TokenKeys
from hma.v1 import admin_pb2, meta_agent_pb2
from services.meta_agent.access import key_cache
from services.meta_agent.access.identity import HEADER, identity_of
from services.meta_agent.access.roles import ADMIN, OPERATOR, READER
from tests.integration.access.callers import KEY, Door, identity, open_door
from tests.integration.store.proxy import Proxy

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED.value[0]


async def until_code(door: Door, key: str, code: int) -> ext_authz_pb2.CheckResponse:
    """Asks until the answer has a gRPC code; the answer."""
    while True:
        answer = await door.check(x_api_key=key)
        if answer.status.code == code:
            return answer
        await asyncio.sleep(0.02)


async def read_into(told: list[Any], updates: AsyncIterator[Any]) -> None:
    async for update in updates:
        told.append(update)


async def test_who_passes_gets_an_identity_and_loses_the_credential(door: Door) -> None:
    made = await door.make_key(role=admin_pb2.CALLER_ROLE_READER)
    answer = await door.check(x_api_key=made.secret, x_request_id="r-1")
    assert answer.status.code == 0
    assert set(answer.ok_response.headers_to_remove) == {"authorization", "x-api-key"}
    (header,) = answer.ok_response.headers
    assert header.append_action == 2  # replaces one that is there
    # For the limits of tenants, and for the gateway to know the caller by.
    assert dict(answer.dynamic_metadata) == {"tenant": "acme", "identity": header.header.value}
    caller = identity_of(TokenKeys([KEY]), [(header.header.key, header.header.value)])
    assert (caller.tenant, caller.role) == ("acme", READER)
    assert caller.subject == f"key:{made.key.key_id}"
    assert caller.address == "192.0.2.9"
    assert made.secret not in str(answer)


async def test_a_token_passes_as_the_gateway_has_found_it(door: Door) -> None:
    token = {"payload": {"sub": "ada", "tenant": "acme", "role": "admin"}}
    answer = await door.check(authorization="Bearer eyJ", token=token)
    caller = identity_of(TokenKeys([KEY]), [(HEADER, answer.ok_response.headers[0].header.value)])
    assert (caller.subject, caller.role) == ("jwt:ada", ADMIN)


async def test_without_an_issuer_the_gateways_credential_is_nobodys_word(
    module_postgres_url: str, tmp_path: Path
) -> None:
    async with open_door(module_postgres_url, tmp_path, issuer="") as door:
        token = {"payload": {"sub": "mallory", "tenant": "acme", "role": "operator"}}
        answer = await door.check(authorization="Bearer x", token=token)
        assert answer.denied_response.status.code == 401
        assert [each["reason"] for each in door.heard.refusals] == ["TOKEN_INVALID"]


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", ""])
async def test_refusals_have_the_form_that_the_client_reads(door: Door, content_type: str) -> None:
    answer = await door.check(x_api_key="hma_no", content_type=content_type)
    assert answer.status.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    denied = answer.denied_response
    assert denied.status.code == 401
    headers = {each.header.key: each.header.value for each in denied.headers}
    assert 'error_description="KEY_UNKNOWN"' in headers["www-authenticate"]
    if content_type:
        assert "grpc-status-details-bin" in headers
        assert denied.body == "There is no such key, or its secret is wrong."
    else:
        assert json.loads(denied.body)["details"][0]["reason"] == "KEY_UNKNOWN"


async def test_refusals_are_told_without_a_secret(door: Door) -> None:
    made = await door.make_key()
    await door.admin.RevokeKey(
        admin_pb2.RevokeKeyRequest(key_id=made.key.key_id),
        timeout=30,
        metadata=identity("default", OPERATOR),
    )
    await door.check(x_api_key=made.secret, x_request_id="r-2")
    await door.check(x_request_id="r-3")
    known, unknown = door.heard.refusals[-2:]
    assert known == {
        "subject": f"key:{made.key.key_id}",
        "tenant": "acme",
        "method": "GET /v1/jobs",
        "address": "192.0.2.9",
        "request_id": "r-2",
        "reason": "KEY_REVOKED",
        "code": "UNAUTHENTICATED",
    }
    assert (unknown["subject"], unknown["tenant"]) == ("", "")
    assert unknown["reason"] == "NO_CREDENTIALS"
    assert made.secret not in str(door.heard.refusals)


@pytest.mark.parametrize(
    "caller", [(), (("x-hma-caller", "gateway."),), (("x-hma-caller", "gateway." + "0" * 64),)]
)
async def test_only_the_gateway_may_ask(door: Door, caller: Any) -> None:
    made = await door.make_key()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await door.check(caller=caller, x_api_key=made.secret)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert from_rpc_error(error.value).reason == "NOT_THE_GATEWAY"
    (told,) = door.heard.refusals
    assert (told["method"], told["reason"]) == ("Check", "NOT_THE_GATEWAY")
    assert told["address"].startswith("ipv4:127.0.0.1:")


async def test_a_call_that_nobody_has_let_pass_is_refused_and_told(door: Door) -> None:
    calls: list[tuple[Any, Any]] = [
        (door.edge.api.ListJobs, meta_agent_pb2.ListJobsRequest()),
        (door.admin.ListKeys, admin_pb2.ListKeysRequest()),
    ]
    for method, request in calls:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await method(request, timeout=30, metadata=(("x-hma-tenant", "acme"),))
        assert isinstance(from_rpc_error(error.value), Unauthenticated)
    watch = door.edge.api.WatchJob(meta_agent_pb2.WatchJobRequest(job_id="x"), timeout=30)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(watch))
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert [each["method"] for each in door.heard.refusals] == ["ListJobs", "ListKeys", "WatchJob"]


async def test_a_role_that_is_too_low_is_refused_and_told(door: Door) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await door.edge.api.CreateJob(
            meta_agent_pb2.CreateJobRequest(job=door.edge.spec()),
            timeout=30,
            metadata=identity("acme", READER),
        )
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    (refusal,) = door.heard.refusals
    assert (refusal["subject"], refusal["tenant"]) == ("jwt:acme", "acme")
    assert (refusal["method"], refusal["address"]) == ("CreateJob", "192.0.2.1")


async def test_a_revocation_reaches_the_other_replica_at_once(
    door: Door, module_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is remembered does not grow too old: it is told.
    monkeypatch.setattr(key_cache, "LIFETIME", 3600.0)
    monkeypatch.setattr(key_cache, "RENEWED", 3600.0)
    async with open_door(module_postgres_url, tmp_path) as other:
        made = await door.make_key()
        assert (await other.check(x_api_key=made.secret)).status.code == 0
        await door.admin.RevokeKey(
            admin_pb2.RevokeKeyRequest(key_id=made.key.key_id),
            timeout=30,
            metadata=identity("default", OPERATOR),
        )
        async with asyncio.timeout(30):
            await until_code(other, made.secret, UNAUTHENTICATED)


async def test_a_call_that_waited_tells_nothing_once_its_key_is_revoked(door: Door) -> None:
    made = await door.make_key(role=admin_pb2.CALLER_ROLE_USER)
    answer = await door.check(x_api_key=made.secret)
    mine = ((HEADER, answer.ok_response.headers[0].header.value),)
    request = meta_agent_pb2.CreateJobRequest(job=door.edge.spec())
    job_id = (await door.edge.api.CreateJob(request, timeout=30, metadata=mine)).job_id
    waiting = meta_agent_pb2.GetJobRequest(job_id=job_id)
    waiting.wait.FromMilliseconds(1500)
    # Time goes by, and the key is good.
    await door.edge.api.GetJob(waiting, timeout=30, metadata=mine)
    call = door.edge.api.GetJob(waiting, timeout=30, metadata=mine)
    await door.admin.RevokeKey(
        admin_pb2.RevokeKeyRequest(key_id=made.key.key_id),
        timeout=30,
        metadata=identity("default", OPERATOR),
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert from_rpc_error(error.value).reason == "KEY_REVOKED"
    assert [each["reason"] for each in door.heard.refusals] == ["KEY_REVOKED"]


async def test_a_stream_tells_nothing_more_once_its_key_is_revoked(door: Door) -> None:
    made = await door.make_key(role=admin_pb2.CALLER_ROLE_USER)
    answer = await door.check(x_api_key=made.secret)
    mine = ((HEADER, answer.ok_response.headers[0].header.value),)
    request = meta_agent_pb2.CreateJobRequest(job=door.edge.spec())
    job_id = (await door.edge.api.CreateJob(request, timeout=30, metadata=mine)).job_id
    watch = door.edge.api.WatchJob(
        meta_agent_pb2.WatchJobRequest(job_id=job_id), timeout=30, metadata=mine
    )
    updates = aiter(watch)
    await anext(updates)
    # Time goes by, and the key is good: it goes on.
    await asyncio.sleep(1.1)
    await door.edge.note(job_id, "still told")
    while (await anext(updates)).event.state_changed.reason != "still told":
        pass
    await door.admin.RevokeKey(
        admin_pb2.RevokeKeyRequest(key_id=made.key.key_id),
        timeout=30,
        metadata=identity("default", OPERATOR),
    )
    async with asyncio.timeout(30):
        await until_code(door, made.secret, UNAUTHENTICATED)
    await asyncio.sleep(1.1)
    await door.edge.note(job_id, "not told any more")
    told: list[Any] = []
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await read_into(told, updates)
    assert [each for each in told if each.event.state_changed.reason == "not told any more"] == []
    assert from_rpc_error(error.value).reason == "KEY_REVOKED"
    assert door.heard.refusals[-1]["method"] == "WatchJob"


async def test_without_the_database_nobody_passes_and_nobody_is_refused(
    postgres_url: str, tmp_path: Path
) -> None:
    async with Proxy(postgres_url).running() as proxy, open_door(proxy.url, tmp_path) as door:
        made = await door.make_key()
        assert (await door.check(x_api_key=made.secret)).status.code == 0
        proxy.down()
        # What is remembered counts for two seconds; then nothing does.
        async with asyncio.timeout(30):
            answer = await until_code(door, made.secret, 14)
        assert answer.denied_response.status.code == 503
        assert json.loads(answer.denied_response.body)["code"] == 14
        assert door.heard.refusals == []
        proxy.up()
        async with asyncio.timeout(30):
            await until_code(door, made.secret, 0)


async def test_the_last_use_is_written_within_seconds_and_not_by_wrong_secrets(
    door: Door,
) -> None:
    store = door.edge.store
    used, unused = await door.make_key("uses"), await door.make_key("uses")
    now = (await store.database.fetch("SELECT clock_timestamp()"))[0][0]
    await store.keys.used({used.key.key_id: now})
    await store.keys.used({used.key.key_id: now.replace(microsecond=0)})
    rows = await store.keys.read([used.key.key_id, unused.key.key_id])
    assert rows[used.key.key_id].last_use_time == now
    assert rows[unused.key.key_id].last_use_time is None


async def test_keys_are_listed_page_by_page_the_newest_first(door: Door) -> None:
    made = [(await door.make_key("pages")).key.key_id for _ in range(5)]
    found, token = [], ""
    while True:
        page = await door.admin.ListKeys(
            admin_pb2.ListKeysRequest(page_size=2, page_token=token),
            timeout=30,
            metadata=identity("pages", ADMIN),
        )
        found += [key.key_id for key in page.keys]
        token = page.next_page_token
        if not token:
            break
    assert found == made[::-1]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "x" * 65}, "tenant"),
        ({"role": 9}, "role"),
        ({"note": "x" * 201}, "note"),
        ({"note": "a\0b"}, "note"),
        ({"lifetime": {"seconds": 0}}, "lifetime"),
        ({"lifetime": {"seconds": -5}}, "lifetime"),
        ({"lifetime": {"seconds": 315_576_000_000}}, "lifetime"),
    ],
)
async def test_a_key_that_cannot_be_made_is_refused_by_field(
    door: Door, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await door.admin.CreateKey(
            admin_pb2.CreateKeyRequest(**fields),
            timeout=30,
            metadata=identity("default", OPERATOR),
        )
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert named in (error.value.details() or "")


async def test_a_whole_key_given_as_its_id_is_not_repeated(door: Door) -> None:
    made = await door.make_key()
    for method, request in (
        (door.admin.RevokeKey, admin_pb2.RevokeKeyRequest(key_id=made.secret)),
        (door.admin.RotateKey, admin_pb2.RotateKeyRequest(key_id=made.secret)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await method(request, timeout=30, metadata=identity("default", OPERATOR))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        assert made.secret not in (error.value.details() or "")
