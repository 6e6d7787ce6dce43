"""Jobs that are steered while they run: topped up, interrupted for every cause there is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

import hma
from hma.v1 import common_pb2, job_pb2, meta_agent_pb2, task_pb2
from tests.integration.system.ledger import agrees, agrees_exactly, calls_of
from tests.integration.system.whole import Whole, open_whole
from tests.scripted_llm import Call, Reply, ScriptedLLM, refuse, say
from tests.scripted_llm.tokenizer import split_tokens

MILLS = ("mills.md", "# Mills\n\nThe mill was built in 1764. Anna Hale paid for it.\n")
QUESTIONS = "Answer these questions:\n" + "\n".join(
    f"{n}. In which year was mill number {n} built?" for n in range(1, 13)
)
DELAY = 0.3
"""Seconds per token: the count of an aborted call is believed when the server closes within
half of it, so slow that it does on a machine that does much besides."""

_PACE_TOKENS = 6
"""So many slow tokens, and the client knows the server's pace by its last eight."""

STARTED = '{"items": [{"id": "%s", "answer": "1764", "evidence": ""}, {"id": "%s", "answer": "'
LONG = "17 and so on " * 200


def unending(*ids: str) -> Reply:
    """Closes its first item at once, and then takes its time."""
    begin = STARTED % ids
    return Reply(text=begin + LONG, token_delay=DELAY, slow_from=len(split_tokens(begin)))


def answers(call: Call) -> Reply:
    """A whole answer to every item of a call."""
    ids = re.findall(r"^(\S+): In which", call.prompt, re.MULTILINE)
    items = [{"id": name, "answer": "1764", "evidence": ""} for name in ids]
    return Reply(json={"items": items, "notes": ""})


def task_of(name: str, items: Sequence[str], **more: object) -> task_pb2.Task:
    task = task_pb2.Task(id=name, instruction=f"Answer for {name}.", **more)  # type: ignore[arg-type]
    for item in items:
        task.items.add(item_id=item, text="In which year was it built?")
    return task


def slow_after_one(call: Call) -> Reply:
    """`slow.1` is answered at once; what follows never ends."""
    if "Answer for slow" in call.prompt:
        return unending("slow.1", "slow.2")
    return answers(call)


def one_is_written(llm: ScriptedLLM) -> bool:
    """Whether the slow call has closed its first item and has been at its second for a while."""
    begin = STARTED % ("slow.1", "slow.2")
    return any(
        call.text.startswith(begin)
        and call.completion_tokens >= len(split_tokens(begin)) + _PACE_TOKENS
        for call in llm.calls
    )


SLOW = task_of("slow", ["slow.1", "slow.2"])


def interruptions(events: Sequence[job_pb2.JobEvent]) -> list[job_pb2.AttemptStopped]:
    """What was told to stop, in order."""
    return [e.attempt_stopped for e in events if e.HasField("attempt_stopped")]


def check_stopped(job: hma.Job, whole: Whole) -> None:
    """The server saw the client leave, and the ledger has what it counted until then."""
    aborted = [call for call in calls_of(job, whole) if call.state == "aborted"]
    assert len(aborted) == 1
    assert 0 < aborted[0].completion_tokens < aborted[0].max_tokens
    rows = [row for row in job.ledger.rows if row.call.finish_reason == "abort"]
    assert [row.call.usage.completion_tokens for row in rows] == [aborted[0].completion_tokens]
    agrees_exactly(job, whole)


def check_salvaged(job: hma.Job) -> None:
    """What was closed is in the answer; what was not is not, and the answer says why."""
    read = {i.item_id: i.answer for i in job.answer.items if i.origin == common_pb2.ORIGIN_MODEL}
    assert read["slow.1"] == "1764"
    assert "slow.2" not in read


async def test_client_interrupts_and_what_was_written_is_in_the_answer(postgres_url: str) -> None:
    async with open_whole(postgres_url, slow_after_one) as whole:
        job_id = await whole.client.submit(
            "Find the years.", plan=task_pb2.Plan(tasks=[SLOW]), budget=30_000, deadline=60
        )
        await whole.llm.wait_until(one_is_written)
        await whole.client.interrupt(job_id, reason="enough")
        job = await whole.client.wait(job_id)
        check_stopped(job, whole)
        stops = interruptions(await whole.events(job_id))
    check_salvaged(job)
    assert [stop.cause for stop in stops] == [job_pb2.INTERRUPT_CAUSE_CLIENT]
    assert job.state == job_pb2.JOB_STATE_PARTIAL


async def test_cancel_stops_the_server_and_gives_no_answer(postgres_url: str) -> None:
    async with open_whole(postgres_url, slow_after_one) as whole:
        job_id = await whole.client.submit(
            "Find the years.", plan=task_pb2.Plan(tasks=[SLOW]), budget=30_000, deadline=60
        )
        await whole.llm.wait_until(one_is_written)
        await whole.client.cancel(job_id)
        job = await whole.client.wait(job_id)
        check_stopped(job, whole)
        stops = interruptions(await whole.events(job_id))
    assert [stop.cause for stop in stops] == [job_pb2.INTERRUPT_CAUSE_CANCEL]
    assert job.state == job_pb2.JOB_STATE_CANCELLED
    assert not job.HasField("answer")


async def test_deadline_stops_the_work_early_enough_for_the_answer(postgres_url: str) -> None:
    async with open_whole(postgres_url, slow_after_one) as whole:
        job = await whole.client.run(
            "Find the years.", plan=task_pb2.Plan(tasks=[SLOW]), budget=30_000, deadline=12
        )
        check_stopped(job, whole)
        stops = interruptions(await whole.events(job.job_id))
    check_salvaged(job)
    assert [stop.cause for stop in stops] == [job_pb2.INTERRUPT_CAUSE_DEADLINE]
    assert job.end_time.ToNanoseconds() <= job.deadline_time.ToNanoseconds()


async def test_time_limit_of_a_task_ends_it_and_the_job_goes_on(postgres_url: str) -> None:
    slow = task_of("slow", ["slow.1", "slow.2"], timeout=Duration(seconds=8))
    async with open_whole(postgres_url, slow_after_one) as whole:
        job = await whole.client.run(
            "Find the years.", plan=task_pb2.Plan(tasks=[slow]), budget=30_000, deadline=60
        )
        agrees(job, whole)
        assert any(call.state == "aborted" for call in calls_of(job, whole))
        causes = {stop.cause for stop in interruptions(await whole.events(job.job_id))}
    check_salvaged(job)
    # Whichever of the two clocks is first: the Worker knows how long it may take, too.
    assert causes <= {job_pb2.INTERRUPT_CAUSE_TIMEOUT}


async def test_straggler_with_a_task_waiting_is_stopped_and_only_its_rest_is_asked_again(
    postgres_url: str,
) -> None:
    def script(call: Call) -> Reply:
        return (
            slow_after_one(call) if call.headers["x-hma-call"].endswith("/1/1") else answers(call)
        )

    plan = task_pb2.Plan(tasks=[task_of(f"quick{n}", [f"quick{n}.1"]) for n in range(5)])
    plan.tasks.append(SLOW)
    plan.tasks.append(task_of("last", ["last.1"], depends_on=["slow"]))
    changes = {"straggler_least": 4.0, "straggler_factor": 1.5}
    async with open_whole(postgres_url, script, rule_changes=changes) as whole:
        job = await whole.client.run("Find the years.", plan=plan, budget=60_000, deadline=60)
        check_stopped(job, whole)
        stops = interruptions(await whole.events(job.job_id))
        again = [c for c in calls_of(job, whole) if "Answer for slow" in c.prompt]
    assert [stop.cause for stop in stops] == [job_pb2.INTERRUPT_CAUSE_STRAGGLER]
    assert stops[0].waiting_tasks == 1
    assert stops[0].elapsed.ToMilliseconds() >= 1.5 * stops[0].expected.ToMilliseconds()
    assert ["slow.1:" in call.prompt for call in again] == [True, False]
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert {item.item_id for item in job.answer.items} >= {"slow.1", "slow.2", "last.1"}


async def test_task_that_only_served_one_that_was_skipped_is_stopped_as_obsolete(
    postgres_url: str,
) -> None:
    def script(call: Call) -> Reply:
        if "Answer for bad" in call.prompt:
            return refuse(400, message="not like this")
        if "Answer for slow" in call.prompt:
            return unending("slow", "x")
        if "Answer for quick" in call.prompt:
            return Reply(json=answers(call).json, first_delay=2.0)
        return answers(call)

    plan = task_pb2.Plan(
        tasks=[
            task_of("slow", []),
            task_of("quick", ["quick.1"]),
            task_of("bad", ["bad.1"], depends_on=["quick"], critical=True),
            task_of("last", ["last.1"], depends_on=["slow", "bad"]),
        ]
    )
    async with open_whole(postgres_url, script) as whole:
        job = await whole.client.run(QUESTIONS, plan=plan, budget=60_000, deadline=60)
        check_stopped(job, whole)
        stops = interruptions(await whole.events(job.job_id))
    assert [stop.cause for stop in stops] == [job_pb2.INTERRUPT_CAUSE_OBSOLETE]
    assert job.state == job_pb2.JOB_STATE_PARTIAL


async def test_fail_fast_stops_what_runs_once_a_task_has_failed(postgres_url: str) -> None:
    def script(call: Call) -> Reply:
        if "Answer for bad" in call.prompt:
            return refuse(400, message="not like this")
        return slow_after_one(call)

    bad = task_of("bad", ["bad.1"], depends_on=["quick"])
    plan = task_pb2.Plan(tasks=[SLOW, task_of("quick", ["quick.1"]), bad])
    policy = job_pb2.JobPolicy(failure_policy=job_pb2.FAILURE_POLICY_FAIL_FAST)

    def quick_is_late(call: Call) -> Reply:
        reply = script(call)
        if "Answer for quick" in call.prompt:
            return Reply(json=reply.json, first_delay=3.0)
        return reply

    async with open_whole(postgres_url, quick_is_late) as whole:
        job = await whole.client.run(
            "Find the years.", plan=plan, budget=60_000, deadline=60, policy=policy
        )
        check_stopped(job, whole)
        stops = interruptions(await whole.events(job.job_id))
    check_salvaged(job)
    assert [stop.cause for stop in stops] == [job_pb2.INTERRUPT_CAUSE_FAILURE]


async def test_top_up_flows_in_at_once_and_the_same_request_tops_up_once(postgres_url: str) -> None:
    async with open_whole(
        postgres_url, lambda _: say(" 1764\n"), profile="smollm2", first_delay=1.0
    ) as whole:
        job_id = await whole.client.submit(QUESTIONS, documents=[MILLS], budget=700, deadline=60)
        async for update in whole.client.watch(job_id):
            if update.event.HasField("plan_trimmed"):
                break
        request = meta_agent_pb2.GrantBudgetRequest(
            job_id=job_id, tokens=5_000, request_id="top up"
        )
        for _ in range(3):
            seen = await whole.stub.GrantBudget(request)
            assert seen.budget.max_tokens == 5_700
        job = await whole.client.wait(job_id)
        agrees_exactly(job, whole)
        events = await whole.events(job_id)
    assert job.ledger.budget_tokens == 5_700
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert sum(event.HasField("budget_granted") for event in events) == 1
    # What had been put off got its tokens in the very next decision.
    at = next(n for n, event in enumerate(events) if event.HasField("budget_granted"))
    moved = next(e.tokens_moved for e in events[at:] if e.HasField("tokens_moved"))
    assert moved.to_task_uid
