"""Keys, refusals at the door and strangers' jobs: all in the trail, each in its tenant's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hma.v1 import admin_pb2, meta_agent_pb2
from services.meta_agent.access.roles import ADMIN, OPERATOR, READER
from services.meta_agent.access.settings import AccessSettings
from tests.integration.access.callers import KEY, Door, Heard, identity
from tests.integration.edge.edge import running_edge

pb = admin_pb2


@pytest.fixture
async def trailed(postgres_url: str, tmp_path: Path) -> AsyncIterator[Door]:
    """A door whose refusals go into the trail."""
    file = tmp_path / "internal-key"
    file.write_bytes(KEY + b"\n")
    async with running_edge(
        postgres_url, access=AccessSettings(internal_key_file=str(file))
    ) as edge:
        yield Door(edge, Heard())


async def trail(door: Door, tenant: str, who: Any = None) -> list[Any]:
    await door.edge.trail.flush()
    response = await door.admin.ListAuditEntries(
        pb.ListAuditEntriesRequest(tenant=tenant),
        timeout=30,
        metadata=who or identity("default", OPERATOR),
    )
    return list(reversed(response.entries))


async def test_what_is_done_to_keys_is_in_the_trail_without_a_secret(trailed: Door) -> None:
    door = trailed
    made = await door.make_key("acme")
    name = made.key.key_id
    operator = identity("default", OPERATOR)
    rotated = await door.admin.RotateKey(pb.RotateKeyRequest(key_id=name), metadata=operator)
    await door.admin.RevokeKey(pb.RevokeKeyRequest(key_id=name), metadata=operator)
    answer = await door.check(authorization=f"Bearer {rotated.secret}")
    assert answer.HasField("denied_response")
    with pytest.raises(grpc.aio.AioRpcError):
        await door.admin.RotateKey(pb.RotateKeyRequest(key_id=made.secret), metadata=operator)
    found = await trail(door, "*")
    assert [(e.method, e.resource, e.code, e.reason) for e in found] == [
        ("CreateKey", name, "OK", ""),
        ("RotateKey", name, "OK", ""),
        ("RevokeKey", name, "OK", ""),
        ("GET /v1/jobs", "", "UNAUTHENTICATED", "KEY_REVOKED"),
        ("RotateKey", "", "NOT_FOUND", "NOT_FOUND"),
    ]
    assert {e.subject for e in found} == {"jwt:default", f"key:{name}"}
    assert (found[3].tenant, found[3].address) == ("acme", "192.0.2.9")
    for secret in (made.secret, rotated.secret):
        assert secret.rpartition("_")[2] not in str(found)


async def test_a_strangers_job_is_in_the_strangers_trail_and_not_in_its_owners(
    trailed: Door,
) -> None:
    door = trailed
    theirs, mine = identity("theirs"), identity("mine")
    request = meta_agent_pb2.CreateJobRequest(job=door.edge.spec())
    job_id = (await door.edge.api.CreateJob(request, metadata=theirs)).job_id
    with pytest.raises(grpc.aio.AioRpcError):
        await door.edge.api.GetJob(meta_agent_pb2.GetJobRequest(job_id=job_id), metadata=mine)
    reader = identity("mine", READER)
    with pytest.raises(grpc.aio.AioRpcError):
        await door.edge.api.CreateJob(request, metadata=reader)
    with pytest.raises(grpc.aio.AioRpcError):
        await door.edge.api.CancelJob(
            meta_agent_pb2.CancelJobRequest(job_id=job_id), metadata=reader
        )
    own = [(e.method, e.resource, e.code) for e in await trail(door, "", identity("mine", ADMIN))]
    assert own == [
        ("GetJob", job_id, "NOT_FOUND"),
        ("CreateJob", "", "PERMISSION_DENIED"),
        ("CancelJob", job_id, "PERMISSION_DENIED"),
    ]
    other = [(e.method, e.code) for e in await trail(door, "", identity("theirs", ADMIN))]
    assert other == [("CreateJob", "OK")]


async def test_who_reads_anothers_trail_is_in_ones_own(trailed: Door) -> None:
    for tenant in ("theirs", "*"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trail(trailed, tenant, identity("mine", ADMIN))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    found = await trail(trailed, "mine")
    assert {(entry.method, entry.code) for entry in found} == {
        ("ListAuditEntries", "PERMISSION_DENIED")
    }
    assert sum(entry.count for entry in found) == 2
