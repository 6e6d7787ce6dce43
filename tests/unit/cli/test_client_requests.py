"""What the client makes of what is pleasant to write; addresses; backoff; exports."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hma
import hma.client
from hma.client.backoff import Backoff
from hma.client.connection import Server
from hma.client.requests import create_job, read_documents, seconds, set_quota, to_plan
from hma.client.watching import Cursor
from hma.errors import InvalidRequest, Overloaded
from hma.v1 import job_pb2, meta_agent_pb2


def test_what_hma_exports() -> None:
    assert sorted(hma.__all__) == [
        "AsyncClient",
        "Client",
        "Complexity",
        "HmaError",
        "Job",
        "JobEvent",
        "JobPolicy",
        "JobProgress",
        "JobState",
        "Plan",
        "SystemStatus",
        "Task",
        "TaskKind",
        "TaskState",
        "WatchJobResponse",
        "__version__",
        "errors",
    ]
    for name in hma.__all__:
        assert getattr(hma, name) is not None
    assert dir(hma) == sorted(hma.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hma.nonsense


def test_both_clients_can_do_the_same() -> None:
    def methods(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")}

    assert methods(hma.Client) == methods(hma.AsyncClient)
    assert methods(hma.Client) == {
        "audit", "cancel", "close", "delete", "explain", "get", "grant", "interrupt", "list",
        "quota", "run", "set_quota", "status", "submit", "usage", "wait", "watch",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [("90s", 90), ("2m", 120), (" 1h ", 3600), ("250ms", 0.25), (1.5, 1.5), (7, 7)],
)
def test_durations_may_be_written_in_many_ways(value: str | float, expected: float) -> None:
    assert seconds(value, "deadline") == expected
    assert seconds(timedelta(seconds=expected), "deadline") == expected


@pytest.mark.parametrize("value", [0, -1, "soon", "", float("nan"), float("inf"), timedelta(0)])
def test_what_is_no_duration_names_its_field(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        seconds(value, "deadline")
    assert caught.value.violations[0].field == "deadline"


@given(st.floats(0.001, 86400))
def test_a_deadline_survives_the_wire(value: float) -> None:
    request = create_job("x", budget=1, deadline=value)
    sent = request.job.budget.deadline
    assert sent.seconds + sent.nanos / 1e9 == pytest.approx(value, abs=1e-8)


def test_what_is_not_said_is_not_sent() -> None:
    job = create_job("x", budget=5).job
    assert not job.budget.HasField("deadline")
    assert not job.HasField("plan")
    assert job.policy == job_pb2.JobPolicy()


def test_each_request_has_an_id_of_its_own() -> None:
    ids = {create_job("x", budget=5).request_id for _ in range(50)}
    assert len(ids) == 50
    assert create_job("x", budget=5, request_id="mine").request_id == "mine"


def test_the_policy_given_is_not_changed() -> None:
    policy = hma.JobPolicy(max_rounds=3)
    request = create_job("x", budget=5, policy=policy, shape="single")
    assert request.job.policy.shape == job_pb2.JOB_SHAPE_SINGLE
    assert policy == hma.JobPolicy(max_rounds=3)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"shape": "crowd"}, "shape"),
        ({"budget": 2**31}, "budget"),
        ({"plan": {"tasks": [{"id": 1.5}]}}, "plan"),
        ({"deadline": "tomorrow"}, "deadline"),
    ],
)
def test_what_cannot_be_sent_names_its_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        create_job("x", **{"budget": 5, **options})
    assert caught.value.violations[0].field == field


def test_files_of_one_name_keep_their_paths(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.md").write_text(folder)
    (tmp_path / "c.md").write_text("c")
    paths = [tmp_path / "a" / "README.md", tmp_path / "b" / "README.md", tmp_path / "c.md"]
    names = [document.name for document in read_documents(paths)]
    assert names == [str(paths[0]), str(paths[1]), "c.md"]


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_documents([tmp_path / "none.md"])


def test_a_plan_may_be_a_message_or_its_json() -> None:
    plan = hma.Plan(tasks=[hma.Task(id="a", instruction="b", depends_on=["c"])])
    assert to_plan(plan) == plan
    same = {"tasks": [{"id": "a", "instruction": "b", "depends_on": ["c"]}]}
    assert to_plan(same) == plan


@pytest.mark.parametrize(
    ("address", "target", "secure"),
    [
        ("localhost:8080", "localhost:8080", False),
        ("hma.example.com", "hma.example.com:8080", False),
        ("http://10.0.0.1:80/", "10.0.0.1:80", False),
        ("https://hma.example.com", "hma.example.com:443", True),
        ("https://hma.example.com:8443", "hma.example.com:8443", True),
        ("[::1]:8080", "[::1]:8080", False),
        ("[::1]", "[::1]:8080", False),
    ],
)
def test_addresses_are_read_as_people_write_them(address: str, target: str, secure: bool) -> None:
    assert Server.parse(address) == Server(target, secure)


@pytest.mark.parametrize(
    "address", ["ftp://x:1", "x:y", ":8080", "http://", "a b:1", "x:99999", "http://x:1/path"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(InvalidRequest):
        Server.parse(address)


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HMA_SERVER", "elsewhere:1")
    assert Server.parse(None).target == "elsewhere:1"
    monkeypatch.delitem(os.environ, "HMA_SERVER")
    assert Server.parse(None).target == "localhost:8080"


@given(st.integers(1, 30))
def test_waits_grow_and_stay_within_their_limit(failures: int) -> None:
    backoff = Backoff(first=0.2, limit=5.0)
    step = min(5.0, 0.2 * 2 ** (failures - 1))
    assert step / 2 <= backoff.delay(failures) <= step


def test_the_wait_is_never_shorter_than_asked() -> None:
    assert Backoff().delay(1, Overloaded("full", retry_after=9.0)) == 9.0


def test_a_cursor_takes_each_event_once() -> None:
    cursor = Cursor(2)
    taken = []
    for sequence in (1, 2, 3, 3, 2, 4):
        event = job_pb2.JobEvent(sequence=sequence)
        if cursor.takes(meta_agent_pb2.WatchJobResponse(event=event)):
            taken.append(sequence)
    assert taken == [3, 4]
    assert cursor.takes(meta_agent_pb2.WatchJobResponse(progress=job_pb2.JobProgress()))


def test_documents_may_be_text_or_bytes() -> None:
    text, raw = read_documents([("a.md", "ä"), ("b.md", b"\xff")])
    assert (text.text, text.content) == ("ä", b"")
    assert (raw.text, raw.content) == ("", b"\xff")


def test_a_job_says_whether_it_waits_for_quota() -> None:
    waits = create_job("do it", budget=100, over_quota="wait")
    assert waits.over_quota == meta_agent_pb2.OVER_QUOTA_WAIT
    assert create_job("do it", budget=100).over_quota == meta_agent_pb2.OVER_QUOTA_REFUSE
    with pytest.raises(InvalidRequest):
        create_job("do it", budget=100, over_quota="perhaps")  # type: ignore[arg-type]


def test_a_quota_names_what_it_changes_so_that_a_limit_can_be_lifted() -> None:
    request = set_quota("acme", "small", {"tokens_per_minute": 0, "cost_per_month": 2.5})
    assert list(request.update) == ["tokens_per_minute", "cost_per_month"]
    assert (request.preset, request.limits.cost_per_month) == ("small", 2.5)
