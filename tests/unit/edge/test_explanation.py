"""Why a job went as it did: accounts that add up, and sentences that say what happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hma.v1 import attempt_pb2, common_pb2, explanation_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.valuing import next_tokens
from services.meta_agent.edge.explaining.story import Story
from services.meta_agent.edge.explanation import explain, explanation_of
from services.meta_agent.job.apply import fold_events
from tests.unit.edge.steered_log import PARTIAL, SteeredLog, answers, value
from tests.unit.meta_agent.simulation import Faults, World, make_created, make_rules

RULES = make_rules()
HARSH = Faults(refused=0.15, broken=0.2, failed=0.2, partial=0.15, driver_dies=0.5, deaf=0.1)

Explanation = explanation_pb2.Explanation


def told(log: SteeredLog) -> Explanation:
    return explain(log.events, RULES)


def happened(explanation: Explanation) -> list[str]:
    """What is told of the past."""
    return [each for each in explanation.sentences if not each.startswith("Another 1,000")]


def one(sentences: Iterable[str], words: str) -> str:
    """The one sentence that has these words."""
    (found,) = [sentence for sentence in sentences if words in sentence]
    return found


def account(explanation: Explanation, task_id: str) -> explanation_pb2.TokenAccount:
    (found,) = [row for row in explanation.accounts if row.task_id == task_id]
    return found


def check_sums(explanation: Explanation, log: list[job_pb2.JobEvent]) -> None:
    """The accounts are all that is spent and unknown, to the token."""
    fold = fold_events(log)
    accounts = explanation.accounts
    spent = sum(a.prompt_tokens + a.completion_tokens for a in accounts)
    assert spent == fold.spent == explanation.ledger.spent_tokens
    assert sum(a.unknown_tokens for a in accounts) == fold.unknown
    assert sum(a.cost for a in accounts) == pytest.approx(fold.cost)
    cached = sum(a.cached_prompt_tokens for a in accounts)
    assert cached == explanation.ledger.cached_prompt_tokens
    assert all(a.retried_tokens <= a.prompt_tokens + a.completion_tokens for a in accounts)
    assert len({a.task_uid for a in accounts}) == len(accounts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    items=st.integers(0, 10),
    budget=st.integers(100, 12_000),
    preset=st.sampled_from(["smollm2", "standard"]),
    share=st.floats(0.05, 1.0),
)
def test_accounts_add_up_to_spent_and_unknown_at_any_moment(
    seed: int, items: int, budget: int, preset: str, share: float
) -> None:
    world = World(
        seed, make_created(items=items, budget=budget, deadline=120), make_rules(preset), HARSH
    )
    world.run()
    for log in (world.log, world.log[: max(1, int(share * len(world.log)))]):
        explanation = explain(log, world.rules)
        check_sums(explanation, log)
        assert len(explanation.sentences) <= 110
        assert all(not s[0].islower() or s[1].isdigit() for s in explanation.sentences)
        assert all(s.endswith(".") for s in explanation.sentences)
        assert {a.task_id for a in explanation.accounts} >= {
            task.task.id for task in fold_events(log).tasks.values()
        }


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), page=st.integers(1, 30))
def test_a_log_read_by_pages_explains_the_same(seed: int, page: int) -> None:
    world = World(seed, make_created(items=6, budget=3000, deadline=90), make_rules(), HARSH)
    world.run()
    story = Story()
    for start in range(0, len(world.log), page):
        story.take(world.log[start : start + page])
    assert explanation_of(story, world.rules) == explain(world.log, world.rules)


def test_planning_tasks_and_all_rounds_of_reducing_have_accounts() -> None:
    log = SteeredLog()
    log.shape()
    log.start("p.1", grant=300)
    log.admit("1.1", "t1", "q1", worth=value(0.8, 180))
    log.finish("p.1", 1, log.call(1, 100, 50))
    log.close(1)
    log.start("1.1")
    log.finish("1.1", 1, log.call(1, 120, 20), log.call(2, 60, 10, reask=True), items=answers("q1"))
    log.settle("1.1", refund=20, gains=(0.8, 1.0))
    for uid in ("r.1", "r.2"):
        log.start(uid, grant=100)
        log.finish(uid, 1, log.call(1, 40, 30), answer=task_pb2.Answer(text="so"))
    explanation = told(log)
    check_sums(explanation, log.events)
    plan, task, reduce = explanation.accounts
    assert (plan.task_id, plan.role, plan.allotted_tokens) == ("plan", common_pb2.ROLE_ANALYST, 300)
    assert (task.task_id, task.title, task.state) == (
        "t1",
        "title of t1",
        job_pb2.TASK_STATE_SUCCEEDED,
    )
    assert (task.allotted_tokens, task.predicted_tokens, task.to_pool_tokens) == (200, 180, 20)
    assert (task.prompt_tokens, task.cached_prompt_tokens, task.completion_tokens) == (180, 90, 30)
    assert task.retried_tokens == 70
    assert (task.predicted_gain, task.realised_gain) == (0.8, 1.0)
    assert (list(task.routes), task.route_reason) == (["fast"], "fast suits it")
    assert (reduce.task_id, reduce.attempts, reduce.allotted_tokens) == ("reduce", 2, 100)
    assert reduce.prompt_tokens + reduce.completion_tokens == 140
    assert reduce.retried_tokens == 0, "a new round is no retry"


def test_a_try_after_a_refusal_is_no_retry_and_one_after_a_failure_is() -> None:
    log = SteeredLog()
    log.admit("1.1", "t1", "q1")
    log.start("1.1")
    log.finish("1.1", 1, state=attempt_pb2.ATTEMPT_STATE_REFUSED)
    log.start("1.1", 2)
    log.finish("1.1", 2, log.call(1, 50, 10), state=attempt_pb2.ATTEMPT_STATE_FAILED)
    assert account(told(log), "t1").retried_tokens == 0
    log.start("1.1", 3, route="reasoning")
    log.finish("1.1", 3, log.call(1, 70, 20), items=answers("q1"))
    explanation = told(log)
    row = account(explanation, "t1")
    assert (row.retried_tokens, row.attempts) == (90, 3)
    assert list(row.routes) == ["fast", "reasoning"]
    assert "t1 went from fast to reasoning (reasoning suits it)." in explanation.sentences


def test_the_shape_is_told_with_prediction_and_outcome() -> None:
    log = SteeredLog()
    log.shape()
    log.admit("1.1", "t1", "q1")
    log.start("1.1", grant=1900)
    log.finish("1.1", 1, log.call(1, 1800, 65), items=answers("q1"))
    assert told(log).sentences[0] == (
        "A team was chosen (batching hurts); predicted 2,442 tokens alone, 2,244 in a team; "
        "it has cost 1,865 so far."
    )
    log.end(outcome=(2244, 1865))
    explanation = told(log)
    assert explanation.sentences[0].endswith("; it cost 1,865 (17 % less).")
    assert explanation.shape.predicted_team_tokens == 2244
    assert explanation.shape_outcome.actual_tokens == 1865


def test_a_job_that_started_nothing_is_not_called_cheaper_than_predicted() -> None:
    log = SteeredLog()
    log.shape(team=False, reason="one can do it")
    log.end(job_pb2.JOB_STATE_FAILED, "nothing to answer with")
    assert told(log).sentences[0].endswith("2,244 in a team; nothing was spent.")


def test_tokens_that_moved_are_told_with_what_they_brought() -> None:
    log = SteeredLog()
    log.admit("1.1", "t3", "q1")
    log.admit("1.2", "t5", "q2", "q3", allotted=100)
    log.start("1.1")
    log.finish("1.1", 1, log.call(1, 60, 20), items=answers("q1"))
    log.settle("1.1")
    log.start("1.2")
    log.move(120, "1.1", "1.2", worth=value(0.9, 1500, items=2))
    log.finish("1.2", 1, log.call(1, 150, 40), items=answers("q2", "q3"))
    log.settle("1.2", gains=(0.9, 2.0))
    explanation = told(log)
    assert one(explanation.sentences, "moved from t3") == (
        "120 tokens moved from t3, which was done, to t5 (it can use more): expected 0.6 answers "
        "per 1,000 tokens; t5 then answered 2 of 2 items."
    )
    (move,) = explanation.movements
    assert (getattr(move, "from"), move.to, move.tokens) == ("t3", "t5", 120)
    assert move.predicted.gain == 0.9
    assert move.realised_gain == 2.0
    assert account(explanation, "t3").to_pool_tokens == 120
    assert account(explanation, "t5").from_pool_tokens == 120


def test_what_a_move_brought_is_what_came_after_it() -> None:
    log = SteeredLog()
    log.admit("1.1", "t1", "q1", "q2", worth=value(1.0, 100, items=2, weight_now=0.25))
    log.start("1.1")
    log.finish("1.1", 1, log.call(1, 60, 20), items=answers("q1"), state=PARTIAL)
    log.start("1.1", 2)
    log.say(
        call_granted=job_pb2.CallGranted(
            ref=log.ref("1.1", 2),
            grant=attempt_pb2.Grant(call=2, tokens=90),
            from_pool_tokens=40,
            estimate=value(0.75, 40, weight_now=0.25),
        )
    )
    log.finish("1.1", 2, log.call(1, 30, 10), items=answers("q2"), state=PARTIAL)
    (move,) = told(log).movements
    assert (getattr(move, "from"), move.to, move.realised_gain) == ("pool", "t1", 0.75)
    assert account(told(log), "t1").realised_gain == 1.5


def test_a_refund_goes_to_the_pool_and_gains_nothing() -> None:
    log = SteeredLog()
    log.admit("1.1", "t1", "q1")
    log.settle("1.1", refund=80)
    explanation = told(log)
    (move,) = explanation.movements
    assert (getattr(move, "from"), move.to, move.tokens, move.realised_gain) == (
        "t1",
        "pool",
        80,
        0.0,
    )
    assert not move.HasField("predicted")
    assert happened(explanation)[-1] == "In all moves together, 80 tokens went to the pool."


def test_a_denied_call_moves_nothing() -> None:
    log = SteeredLog()
    log.admit("1.1", "t1", "q1")
    log.start("1.1")
    log.say(
        call_granted=job_pb2.CallGranted(
            ref=log.ref("1.1"), grant=attempt_pb2.Grant(call=2, denied=True), from_pool_tokens=9
        )
    )
    assert not told(log).movements


def interrupted(cause: job_pb2.InterruptCause.ValueType, **more: object) -> Explanation:
    log = SteeredLog()
    log.admit("1.1", "t7", "q1", "q2")
    log.start("1.1")
    log.stop("1.1", cause, **more)  # type: ignore[arg-type]
    log.finish("1.1", 1, log.call(1, 60, 20), items=answers("q1"), state=PARTIAL)
    log.settle("1.1", job_pb2.TASK_STATE_PARTIAL, failure="stopped")
    return told(log)


def test_a_straggler_is_told_with_times_and_those_who_waited() -> None:
    explanation = interrupted(job_pb2.INTERRUPT_CAUSE_STRAGGLER, elapsed=12, expected=3, waiting=2)
    assert one(explanation.sentences, "interrupted") == (
        "t7 was interrupted after 12s (one of its kind takes 3s) because 2 tasks waited for it; "
        "1 of 2 answers was saved."
    )
    (entry,) = explanation.interruptions
    assert (entry.task_id, entry.attempt, entry.outcome) == ("t7", 1, PARTIAL)
    assert (entry.salvaged_items, entry.spent_tokens) == (1, 80)
    assert not [s for s in explanation.sentences if "only a part" in s], "it is told once"


@pytest.mark.parametrize(
    ("cause", "note", "words"),
    [
        (job_pb2.INTERRUPT_CAUSE_CLIENT, "", "because the answer was asked for at once"),
        (job_pb2.INTERRUPT_CAUSE_DEADLINE, "x", "because the deadline was near"),
        (job_pb2.INTERRUPT_CAUSE_TIMEOUT, "", "because its time was up"),
        (job_pb2.INTERRUPT_CAUSE_OBSOLETE, "", "because nothing needed its result any more"),
        (job_pb2.INTERRUPT_CAUSE_FAILURE, "t1 failed", "the job fails fast (t1 failed)"),
        (job_pb2.INTERRUPT_CAUSE_BUDGET, "", "because the budget was gone"),
        (job_pb2.INTERRUPT_CAUSE_CANCEL, "", "because the job was cancelled"),
        (job_pb2.INTERRUPT_CAUSE_UNSPECIFIED, "the log says so", "because the log says so"),
    ],
)
def test_each_cause_has_its_words(
    cause: job_pb2.InterruptCause.ValueType, note: str, words: str
) -> None:
    explanation = interrupted(cause, note=note)
    assert words in one(explanation.sentences, "interrupted after 1s")
    assert explanation.interruptions[0].cause == (cause or job_pb2.INTERRUPT_CAUSE_CLIENT)


def test_many_interrupted_at_once_are_one_sentence() -> None:
    log = SteeredLog(items=6)
    for n in range(1, 7):
        log.admit(f"1.{n}", f"t{n}", f"q{n}")
        log.start(f"1.{n}")
    for n in range(1, 7):
        log.stop(f"1.{n}", job_pb2.INTERRUPT_CAUSE_CLIENT, after=0.01)
    for n in range(1, 5):
        items = answers(f"q{n}")
        log.finish(f"1.{n}", 1, log.call(1, 20, 5), items=items, state=PARTIAL)
    log.lose("1.5", 90)
    log.lose("1.6", 10)
    explanation = told(log)
    assert one(explanation.sentences, "interrupted") == (
        "t1, t2, t3 and 3 more were interrupted because the answer was asked for at once; "
        "4 of 6 answers were saved; what it spent last, 100 tokens at most, is unknown."
    )
    assert len(explanation.interruptions) == 6
    assert explanation.interruptions[5].outcome == attempt_pb2.ATTEMPT_STATE_FAILED
    assert not [s for s in explanation.sentences if "was lost" in s]


def test_a_loss_and_its_late_report_are_told_and_the_account_is_corrected() -> None:
    log = SteeredLog()
    log.admit("1.1", "t1", "q1")
    log.start("1.1")
    log.lose("1.1", 150)
    before = told(log)
    assert account(before, "t1").unknown_tokens == 150
    assert happened(before) == [
        "An attempt at t1 was lost (its stream broke); what it may have spent, 150 tokens at "
        "most, is unknown."
    ]
    log.report("1.1", 1, log.call(1, 80, 20), items=answers("q1"))
    after = told(log)
    check_sums(after, log.events)
    assert account(after, "t1").unknown_tokens == 0
    assert after.sentences[-1] == (
        "A late report of t1 took back 150 unknown tokens: it had spent 100."
    )


def test_dropped_tasks_say_why_and_what_came_back_as_an_extract() -> None:
    log = SteeredLog()
    log.admit("1.1", "t9", "q1", worth=value(0.7, 180))
    why = "the budget does not pay for it: it needs about 180 tokens, 40 are left"
    log.settle("1.1", job_pb2.TASK_STATE_SKIPPED, failure=why)
    log.end(
        job_pb2.JOB_STATE_PARTIAL,
        "1 part is not whole",
        answer=task_pb2.Answer(text="so", items=answers("q1", extracts=True)),
    )
    explanation = told(log)
    assert one(explanation.sentences, "dropped") == (
        f"t9 was dropped: {why}; 1 item came back as an extract."
    )
    (entry,) = explanation.dropped
    assert (entry.task_id, entry.what, entry.reason) == ("t9", "skipped", why)
    assert (entry.extracted_items, entry.value.gain) == (1, 0.7)


def test_a_task_with_a_part_of_its_answers_says_what_was_extracted() -> None:
    log = SteeredLog()
    log.admit("1.1", "t2", "q1", "q2", "q3")
    log.start("1.1")
    items = [*answers("q1"), *answers("q2", "q3", extracts=True)]
    log.finish("1.1", 1, log.call(1, 80, 20), items=items, state=PARTIAL)
    log.settle("1.1", job_pb2.TASK_STATE_PARTIAL, failure="26 tokens are left for it")
    assert happened(told(log)) == [
        "t2 has only a part of its answers (26 tokens are left for it); 2 items came back as "
        "extracts."
    ]


def trimmed_log() -> SteeredLog:
    log = SteeredLog()
    for n in range(1, 5):
        log.admit(f"1.{n}", f"t{n}", f"q{n}", worth=value(0.1 * n, 200))
    merge, defer = job_pb2.TRIM_ACTION_MERGE, job_pb2.TRIM_ACTION_DEFER
    log.trim(
        900,
        500,
        job_pb2.Trimmed(task_uid="1.2", action=merge, into_task_uid="1.1", value=value(0.2, 200)),
        job_pb2.Trimmed(task_uid="1.3", action=defer, value=value(0.6, 600)),
        job_pb2.Trimmed(task_uid="1.4", action=defer, value=value(0.9, 600)),
    )
    return log


def test_merged_and_deferred_tasks_are_dropped_until_they_are_worked_on() -> None:
    log = trimmed_log()
    explanation = told(log)
    assert {d.task_id: d.what for d in explanation.dropped} == {
        "t2": "merged into t1",
        "t3": "deferred",
        "t4": "deferred",
    }
    assert one(explanation.sentences, "All tasks") == (
        "All tasks would need 900 tokens and 500 were there: t2 was merged into t1, "
        "t3 and t4 wait for tokens that others leave."
    )
    assert account(explanation, "t2").problem == "merged into t1"
    log.start("1.3")
    assert [d.task_id for d in told(log).dropped] == ["t2", "t4"]
    log.settle("1.4", job_pb2.TASK_STATE_SKIPPED, failure="nothing was left")
    assert {d.task_id: d.what for d in told(log).dropped}["t4"] == "skipped"


def test_more_tokens_would_buy_the_most_valuable_of_what_waits() -> None:
    log = trimmed_log()
    explanation = told(log)
    # By the estimator that moves tokens, for a job that still runs.
    bought = next_tokens(fold_events(log.events), RULES)
    assert explanation.next_1000_tokens == bought
    assert bought.tokens == 1000
    assert bought.gain > 0.5
    much = f"about {bought.gain:.1f} answers"
    assert explanation.sentences[-1] == f"Another 1,000 tokens would buy {much}."


def test_an_ended_job_says_what_more_tokens_would_have_bought() -> None:
    log = SteeredLog()
    log.end(worth=value(1.8, 1000))
    assert told(log).sentences[-1] == "Another 1,000 tokens would have bought about 1.8 answers."
    log = SteeredLog()
    log.end(worth=value(0.0, 1000))
    assert not any("1,000 tokens" in sentence for sentence in told(log).sentences)


def test_rounds_requests_and_top_ups_are_told_in_order() -> None:
    log = SteeredLog()
    features = job_pb2.RoundFeatures(
        items=4, answered=3, grounded=2, extracts=1, quality=0.72, max_rounds=2
    )
    features.another_round.gain_per_1000_tokens = 0.4
    log.say(
        round_judged=job_pb2.RoundJudged(
            round=1, features=features, another_round=True, reason="0.4 is worth it"
        )
    )
    log.say(budget_granted=job_pb2.BudgetGranted(tokens=500, cost=0.5))
    log.say(interrupt_requested=job_pb2.InterruptRequested(reason="enough"))
    log.say(
        round_judged=job_pb2.RoundJudged(
            round=2,
            features=job_pb2.RoundFeatures(items=4, answered=4, quality=0.8, quality_before=0.72),
            reason="that was the last",
            keeps_previous_answer=True,
        )
    )
    explanation = told(log)
    assert list(explanation.sentences) == [
        "Round 1 was judged: another round (0.4 is worth it); 3 of 4 items answered, 2 found in "
        "the source, 1 extract, quality 0.72, another expects 0.4 answers per 1,000 tokens.",
        "500 tokens and 0.5 of money were added to the budget.",
        "A client asked for the answer at once (enough).",
        "Round 2 was judged: halt (that was the last); 4 of 4 items answered, 0 found in the "
        "source, quality 0.80 after 0.72; the answer of the round before is kept.",
    ]
    assert [r.round for r in explanation.rounds] == [1, 2]


def test_a_cancelled_job_says_once_why() -> None:
    log = SteeredLog()
    log.say(cancel_requested=job_pb2.CancelRequested(reason="wrong file"))
    log.end(job_pb2.JOB_STATE_CANCELLED, "cancelled: wrong file")
    assert happened(told(log)) == [
        "A client cancelled the job (wrong file).",
        "The job was cancelled (wrong file); 0 of 2,000 tokens were spent.",
    ]


def big_log(tasks: int) -> Iterator[job_pb2.JobEvent]:
    log = SteeredLog(items=tasks, budget=10_000_000)
    log.shape()
    for n in range(1, tasks + 1):
        log.admit(f"1.{n}", f"t{n}", f"q{n}")
    for n in range(1, tasks + 1):
        log.start(f"1.{n}")
        log.move(n, "", f"1.{n}")
        if n % 5 == 0:
            log.stop(f"1.{n}", job_pb2.INTERRUPT_CAUSE_TIMEOUT)
        if n % 7 == 0:
            log.lose(f"1.{n}", 10)
            log.start(f"1.{n}", 2, route="reasoning")
        state = job_pb2.TASK_STATE_SKIPPED if n % 3 else job_pb2.TASK_STATE_FAILED
        classes = [common_pb2.FAILURE_CLASS_BUDGET, common_pb2.FAILURE_CLASS_TIMEOUT]
        log.settle(f"1.{n}", state, failure=f"reason {n}", failure_class=classes[n % 2])
    log.end()
    return iter(log.events)


def test_a_job_of_500_tasks_is_told_in_about_100_sentences() -> None:
    explanation = explain(big_log(500), RULES)
    assert len(explanation.accounts) == 500
    assert len(explanation.movements) == 500
    assert 50 < len(explanation.sentences) <= 100
    assert "And 490 more token moves." in explanation.sentences
    assert one(explanation.sentences, "500 tokens moved"), "the largest are told"
    assert explanation.sentences[0].startswith("A team was chosen")
    assert any(s.startswith("The job succeeded") for s in explanation.sentences[-3:])


def test_a_task_that_is_named_as_a_word_reads_as_a_task() -> None:
    log = SteeredLog()
    log.admit("1.1", "all", "q1")
    log.settle("1.1", job_pb2.TASK_STATE_FAILED, failure="it broke")
    assert happened(told(log)) == ["Task all failed (it broke)."]
    assert told(log).accounts[0].task_id == "all"
