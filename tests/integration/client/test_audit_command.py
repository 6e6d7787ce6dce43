"""The command audit, as a process, against a scripted AdminService."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import hma
from hma.v1 import admin_pb2, admin_pb2_grpc
from tests.integration.client.test_command_line import hma as run_hma


class ScriptedAdmin(admin_pb2_grpc.AdminServiceServicer):
    """Plays two pages of a trail."""

    def __init__(self) -> None:
        self.requests: list[admin_pb2.ListAuditEntriesRequest] = []
        self.pages = [["CancelJob", "GetJob"], ["CreateJob"]]
        self.port = 0

    def ListAuditEntries(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        place = int(request.page_token or 0)
        more = place + 1 < len(self.pages)
        response = admin_pb2.ListAuditEntriesResponse(next_page_token="1" if more else "")
        for method in self.pages[place]:
            refused = method == "GetJob"
            response.entries.add(
                method=method,
                subject="key:k1",
                code="NOT_FOUND" if refused else "OK",
                reason="NOT_FOUND" if refused else "",
                count=1,
            )
        return response

    CreateKey = ListKeys = RotateKey = RevokeKey = SetQuota = ListAuditEntries


@pytest.fixture
def admin() -> Iterator[ScriptedAdmin]:
    """Serves in a thread."""
    servicer = ScriptedAdmin()
    server = grpc.server(ThreadPoolExecutor(2))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer
    server.stop(0).wait()


def test_the_trail_is_a_table_with_the_latest_entry_last(admin: ScriptedAdmin) -> None:
    done = run_hma(f"127.0.0.1:{admin.port}", "audit", "--all", "--since", "1h", "--refused")
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split()[:3] == ["time", "(UTC)", "tenant"]
    assert [row.split()[4] for row in rows] == ["CreateJob", "GetJob", "CancelJob"]
    [request, _] = admin.requests
    assert (request.tenant, request.refused_only, request.page_size) == ("*", True, 50)
    assert request.HasField("start_time")


def test_for_programs_it_is_a_line_an_entry_and_no_more_than_asked_for(
    admin: ScriptedAdmin,
) -> None:
    done = run_hma(
        f"127.0.0.1:{admin.port}", "audit", "--tenant", "acme", "--job", "job-1", "-n", "2", "-o",
        "json",
    )  # fmt: skip
    assert [json.loads(line)["method"] for line in done.stdout.splitlines()] == [
        "CancelJob",
        "GetJob",
    ]
    [request] = admin.requests
    assert (request.tenant, request.job_id, request.page_size) == ("acme", "job-1", 2)


def test_nothing_recorded_is_said(admin: ScriptedAdmin) -> None:
    admin.pages = [[]]
    done = run_hma(f"127.0.0.1:{admin.port}", "audit")
    assert done.stdout == "Nothing of this kind is recorded.\n"


def test_a_tenant_and_all_contradict_each_other(admin: ScriptedAdmin) -> None:
    done = run_hma(f"127.0.0.1:{admin.port}", "audit", "--tenant", "acme", "--all")
    assert (done.returncode, admin.requests) == (2, [])


async def test_the_client_for_asyncio_reads_all_pages(admin: ScriptedAdmin) -> None:
    async with hma.AsyncClient(f"127.0.0.1:{admin.port}") as client:
        found = [entry.method async for entry in client.audit()]
    assert found == ["CancelJob", "GetJob", "CreateJob"]
