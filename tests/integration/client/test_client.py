"""The blocking client against a scripted MetaAgent over real gRPC."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import hma
from hma.client import Backoff
from hma.errors import (
    DeadlinePassed,
    InvalidRequest,
    NotFound,
    Overloaded,
    PreconditionFailed,
    Unavailable,
)
from hma.v1 import job_pb2, meta_agent_pb2
from tests.integration.client.job_logs import Team
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent

QUICK = Backoff(tries=4, first=0.02)


def connect(server: ScriptedMetaAgent) -> hma.Client:
    return hma.Client(server.address, backoff=QUICK, resume=QUICK)


def test_run_returns_the_ended_job_with_answer_and_receipt(server: ScriptedMetaAgent) -> None:
    with connect(server) as client:
        job = client.run("Which ports?", documents=[("a.md", "8080")], budget=5000, deadline="2m")
    assert job.state == hma.JobState.JOB_STATE_SUCCEEDED
    assert "8080" in job.answer.text
    assert job.ledger.spent_tokens == sum(
        row.call.usage.prompt_tokens + row.call.usage.completion_tokens for row in job.ledger.rows
    )


def test_submit_sends_what_was_said(server: ScriptedMetaAgent, tmp_path: Path) -> None:
    document = tmp_path / "notes.md"
    document.write_text("Port 8080.", encoding="utf-8")
    plan = {"tasks": [{"id": "a", "instruction": "Do it.", "depends_on": []}]}
    with connect(server) as client:
        client.submit(
            "Which ports?",
            documents=[document, ("b.txt", "text"), ("c.bin", b"bytes")],
            budget=5000,
            deadline="90s",
            shape="team",
            route="fast",
            plan=plan,
            max_cost=0.5,
            policy=hma.JobPolicy(max_rounds=2),
        )
    (request,) = server.servicer.requests
    spec = request.job
    assert [(d.name, d.content, d.text) for d in spec.documents] == [
        ("notes.md", b"Port 8080.", ""),
        ("b.txt", b"", "text"),
        ("c.bin", b"bytes", ""),
    ]
    assert (spec.budget.max_tokens, spec.budget.deadline.seconds) == (5000, 90)
    assert spec.budget.max_cost == 0.5
    assert spec.policy.shape == job_pb2.JOB_SHAPE_TEAM
    assert (spec.policy.route, spec.policy.max_rounds) == ("fast", 2)
    assert [task.id for task in spec.plan.tasks] == ["a"]
    assert request.request_id


def test_a_lost_reply_makes_one_job_only(server: ScriptedMetaAgent) -> None:
    server.lose_reply("CreateJob")
    with connect(server) as client:
        job_id = client.submit("Which ports?", budget=5000)
    assert server.servicer.calls["CreateJob"] == 2
    assert list(server.servicer.jobs) == [job_id]


def test_a_lost_reply_grants_once(slow_server: ScriptedMetaAgent) -> None:
    with connect(slow_server) as client:
        job_id = client.submit("Which ports?", budget=5000)
        before = client.get(job_id).budget.max_tokens
        slow_server.lose_reply("GrantBudget")
        job = client.grant(job_id, 700)
    assert slow_server.servicer.calls["GrantBudget"] == 2
    assert job.budget.max_tokens - before == 700


def test_a_lost_reply_of_delete_is_no_error(server: ScriptedMetaAgent) -> None:
    with connect(server) as client:
        job = client.run("Which ports?", budget=5000)
        server.lose_reply("DeleteJob")
        client.delete(job.job_id)
        with pytest.raises(NotFound):
            client.delete(job.job_id)


def test_a_job_is_explained_while_it_runs_and_afterwards(server: ScriptedMetaAgent) -> None:
    with connect(server) as client:
        job_id = client.submit("Which ports?", budget=5000)
        assert client.explain(job_id).job_id in ("", job_id), "nothing may have happened yet"
        job = client.wait(job_id)
        told = client.explain(job_id)
        with pytest.raises(NotFound):
            client.explain("job-01k0other000000000000000000")
    assert (told.job_id, told.state) == (job_id, job.state)
    spent = sum(a.prompt_tokens + a.completion_tokens for a in told.accounts)
    assert spent == job.ledger.spent_tokens
    assert told.sentences[0].startswith("A team was chosen")


def test_a_refusal_is_not_tried_again(server: ScriptedMetaAgent) -> None:
    server.fail("CreateJob", Overloaded("too many jobs", retry_after=7.0))
    with connect(server) as client, pytest.raises(Overloaded) as caught:
        client.submit("Which ports?", budget=5000)
    assert caught.value.retry_after == 7.0
    assert server.servicer.calls["CreateJob"] == 1


def test_tries_are_bounded(server: ScriptedMetaAgent) -> None:
    server.fail("GetSystemStatus", *[Unavailable("away")] * 9)
    with connect(server) as client, pytest.raises(Unavailable):
        client.status()
    assert server.servicer.calls["GetSystemStatus"] == QUICK.tries


def test_a_call_ends_inside_its_timeout(server: ScriptedMetaAgent) -> None:
    server.fail("GetSystemStatus", Unavailable("away", retry_after=3600.0))
    began = time.monotonic()
    with hma.Client(server.address, timeout=60.0) as client, pytest.raises(Unavailable):
        client.status()
    # It does not wait for what it cannot live to see.
    assert time.monotonic() - began < 50


def test_a_bad_request_names_the_field(server: ScriptedMetaAgent) -> None:
    with connect(server) as client, pytest.raises(InvalidRequest) as caught:
        client.submit("", budget=5000)
    assert [violation.field for violation in caught.value.violations] == ["job.task_description"]


def test_nobody_there_says_what_to_start() -> None:
    with (
        hma.Client("127.0.0.1:1", backoff=Backoff(tries=1)) as client,
        pytest.raises(Unavailable, match="make up") as caught,
    ):
        client.status()
    assert caught.value.reason == "UNREACHABLE"


def test_an_answering_server_is_not_called_unreachable(server: ScriptedMetaAgent) -> None:
    server.fail("GetSystemStatus", *[Unavailable("the database is away")] * 4)
    with connect(server) as client, pytest.raises(Unavailable) as caught:
        client.status()
    assert caught.value.reason == "UNAVAILABLE"


def test_a_broken_watch_resumes_without_gap_or_repeat(server: ScriptedMetaAgent) -> None:
    server.break_watch_after(3, 7, 7, 20)
    with connect(server) as client:
        job_id = client.submit("Which ports?", budget=5000)
        events = [u.event for u in client.watch(job_id) if u.HasField("event")]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].HasField("job_finished")
    assert server.servicer.calls["WatchJob"] == 4


def test_a_watch_survives_a_restart_of_the_server() -> None:
    script = Team(tasks=8).steps()
    sequences = []
    with (
        ScriptedMetaAgent(script, speed=8) as server,
        hma.Client(server.address, resume=Backoff(tries=20, first=0.1)) as client,
    ):
        job_id = client.submit("Which ports?", budget=5000)
        for update in client.watch(job_id, events_only=True):
            sequences.append(update.event.sequence)
            if len(sequences) == 20:
                server.stop()
                threading.Timer(0.3, server.start).start()
    assert sequences == list(range(1, len(sequences) + 1))
    assert sequences[-1] == sum(step.update.HasField("event") for step in script)


def test_a_watch_gives_up_when_the_server_stays_away(server: ScriptedMetaAgent) -> None:
    server.fail("WatchJob", *[Unavailable("away")] * 9)
    with connect(server) as client, pytest.raises(Unavailable):
        list(client.watch(client.submit("Which ports?", budget=5000)))
    assert server.servicer.calls["WatchJob"] == QUICK.tries


def test_watching_an_unknown_job_is_not_tried_again(server: ScriptedMetaAgent) -> None:
    with connect(server) as client, pytest.raises(NotFound):
        list(client.watch("job-unknown"))
    assert server.servicer.calls["WatchJob"] == 1


def test_watch_starts_behind_any_event(server: ScriptedMetaAgent) -> None:
    with connect(server) as client:
        job = client.run("Which ports?", budget=5000)
        late = [u.event.sequence for u in client.watch(job.job_id, after=10, events_only=True)]
        nothing = list(client.watch(job.job_id, after=job.last_sequence, events_only=True))
    assert late == list(range(11, job.last_sequence + 1))
    assert nothing == []


def test_leaving_a_watch_leaves_the_job_alone(server: ScriptedMetaAgent) -> None:
    with connect(server) as client:
        job_id = client.submit("Which ports?", budget=5000)
        for _ in client.watch(job_id):
            break
        assert client.wait(job_id).state == hma.JobState.JOB_STATE_SUCCEEDED


def test_a_slow_watcher_misses_no_event(server: ScriptedMetaAgent) -> None:
    server.servicer.script = Team(tasks=60, workers=6).steps()
    with connect(server) as client:
        job_id = client.submit("Which ports?", budget=20000)
        sequences = []
        for update in client.watch(job_id):
            if update.HasField("event"):
                sequences.append(update.event.sequence)
                if len(sequences) % 50 == 0:
                    time.sleep(0.05)
        last = client.get(job_id).last_sequence
    assert sequences == list(range(1, last + 1))


def test_wait_gives_up_in_time(slow_server: ScriptedMetaAgent) -> None:
    with connect(slow_server) as client:
        job_id = client.submit("Which ports?", budget=5000)
        began = time.monotonic()
        with pytest.raises(DeadlinePassed, match=job_id):
            client.wait(job_id, "500ms")
    assert time.monotonic() - began > 0.4


def test_interrupt_brings_an_answer(slow_server: ScriptedMetaAgent) -> None:
    with connect(slow_server) as client:
        job_id = client.submit("Which ports?", budget=5000)
        client.interrupt(job_id, "enough")
        job = client.wait(job_id)
    assert job.state == hma.JobState.JOB_STATE_PARTIAL
    assert job.answer.text


def test_cancel_brings_none(slow_server: ScriptedMetaAgent) -> None:
    with connect(slow_server) as client:
        job_id = client.submit("Which ports?", budget=5000)
        client.cancel(job_id)
        job = client.wait(job_id)
    assert job.state == hma.JobState.JOB_STATE_CANCELLED
    assert not job.HasField("answer")


def test_commands_on_an_ended_job_are_refused(server: ScriptedMetaAgent) -> None:
    with connect(server) as client:
        job = client.run("Which ports?", budget=5000)
        for command in (client.cancel, client.interrupt):
            with pytest.raises(PreconditionFailed):
                command(job.job_id)
        with pytest.raises(PreconditionFailed):
            client.grant(job.job_id, 5)


def test_deleting_a_running_job_is_refused(slow_server: ScriptedMetaAgent) -> None:
    with connect(slow_server) as client:
        job_id = client.submit("Which ports?", budget=5000)
        with pytest.raises(PreconditionFailed):
            client.delete(job_id)


def test_list_reads_as_many_pages_as_needed(server: ScriptedMetaAgent) -> None:
    with connect(server) as client:
        ids = [client.submit(f"Job {n}?", budget=5000) for n in range(7)]
        listed = [job.job_id for job in client.list(page_size=3)]
        assert listed == ids[::-1]
        assert server.servicer.calls["ListJobs"] == 3
        assert [job.job_id for job in client.list(limit=4, page_size=3)] == ids[:2:-1]
        assert list(client.list(states=[job_pb2.JOB_STATE_FAILED])) == []


def test_status_says_how_the_parts_are(server: ScriptedMetaAgent) -> None:
    with connect(server) as client:
        status = client.status()
    assert status.components[0].state == meta_agent_pb2.COMPONENT_STATE_UP


def test_metadata_goes_with_every_call(server: ScriptedMetaAgent) -> None:
    with hma.Client(server.address, metadata=[("authorization", "Bearer k")]) as client:
        client.run("Which ports?", budget=5000)
        list(client.watch(next(iter(server.servicer.jobs))))
    assert server.servicer.metadata
    assert all(("authorization", "Bearer k") in sent for sent in server.servicer.metadata)
