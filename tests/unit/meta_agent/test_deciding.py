"""Rules of deciding, one at a time, on jobs that are driven by hand."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from hma.v1 import analyst_pb2, attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.budget import grant_for, purse_of
from services.meta_agent.deciding.decide import decide
from services.meta_agent.deciding.observed import (
    Broken,
    Ended,
    Intended,
    Observations,
    Observed,
    Planned,
    Refused,
    RouteState,
)
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.apply import apply
from services.meta_agent.job.layers import topological_order
from services.meta_agent.job.state import AttemptFold, JobFold
from services.meta_agent.job.times import timestamp
from tests.unit.meta_agent.simulation import START, Faults, World, make_created, make_rules


class Desk:
    """A job on the desk of somebody who answers for all services by hand."""

    def __init__(self, created: job_pb2.JobCreated, rules: Rules | None = None) -> None:
        self.rules = rules or make_rules()
        self.now = START
        self.fold = JobFold()
        self.events: list[job_pb2.JobEvent] = []
        self.wake_at = 0.0
        self.fact(job_created=created)
        self.fact(epoch=1, job_claimed=job_pb2.JobClaimed(replica="r", epoch=1))

    def fact(self, epoch: int = 0, **payload: object) -> None:
        event = job_pb2.JobEvent(
            job_id="job-1",
            event_id=f"f{len(self.events)}",
            epoch=epoch,
            time=timestamp(self.now),
            **payload,  # type: ignore[arg-type]
        )
        self._take(event)

    def step(self, *inbox: Observed, after: float = 0.0, **seen: object) -> list[str]:
        """One decision; returns the kinds of its events."""
        self.now += after
        observed = Observations(inbox=inbox, **seen)  # type: ignore[arg-type]
        decision = decide(self.fold, observed, self.now, self.rules)
        for event in decision.events:
            self._take(event)
        self.wake_at = decision.wake_at
        return [event.WhichOneof("payload") or "" for event in decision.events]

    def _take(self, event: job_pb2.JobEvent) -> None:
        event.sequence = len(self.events) + 1
        self.events.append(event)
        self.fold = apply(self.fold, event)

    def open(self) -> list[str]:
        """What is running: task ids."""
        return [self.name(a) for a in self.fold.open_attempts()]

    def name(self, attempt: AttemptFold) -> str:
        task = self.fold.tasks.get(attempt.uid)
        return task.task.id if task else attempt.uid

    def attempt(self, name: str) -> AttemptFold:
        return next(a for a in self.fold.open_attempts() if self.name(a) == name)

    def ends(self, name: str, ok: bool = True, **failure: object) -> Ended:
        """The last word of a running attempt, with one answer per item."""
        attempt = self.attempt(name)
        result = attempt_pb2.AttemptResult()
        if not ok:
            result.state = attempt_pb2.ATTEMPT_STATE_FAILED
            result.failure.CopyFrom(common_pb2.Failure(**failure))  # type: ignore[arg-type]
            return Ended(attempt.key, result)
        result.state = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
        if attempt.uid == "r.1":
            result.answer.text = "done"
        elif attempt.uid == "p.1":
            result.plan.source = attempt_pb2.PLAN_SOURCE_MODEL
        else:
            answer = task_pb2.ItemAnswer(item_id=name, answer="42", grounded=True)
            result.task.items.append(answer)
        return Ended(attempt.key, result)


def make_plan(**tasks: list[str]) -> task_pb2.Plan:
    """name=[dependencies]; names that start with "crit" are critical."""
    return task_pb2.Plan(
        tasks=[
            task_pb2.Task(
                id=name, instruction="do", depends_on=after, critical=name.startswith("crit")
            )
            for name, after in tasks.items()
        ]
    )


def make_desk(plan: task_pb2.Plan, rules: Rules | None = None, **policy: object) -> Desk:
    created = make_created(
        items=0,
        budget=50_000,
        plan=plan,
        policy=job_pb2.JobPolicy(**policy),  # type: ignore[arg-type]
    )
    return Desk(created, rules)


# ---- dispatch


def test_data_flow_starts_a_task_before_the_slowest_of_the_layer_is_done() -> None:
    desk = make_desk(make_plan(a=[], slow=[], b=["a"]))
    desk.step()
    assert desk.open() == ["a", "slow"]
    desk.step(desk.ends("a"))
    assert desk.open() == ["slow", "b"]


def test_waves_wait_for_the_whole_layer() -> None:
    desk = make_desk(make_plan(a=[], slow=[], b=["a"]), dispatch=job_pb2.DISPATCH_WAVES)
    desk.step()
    desk.step(desk.ends("a"))
    assert desk.open() == ["slow"]
    desk.step(desk.ends("slow"))
    assert desk.open() == ["b"]


def test_wave_timeout_interrupts_what_runs_and_the_next_layer_goes_on() -> None:
    plan = make_plan(a=[], slow=[], b=["a"])
    policy = {"dispatch": job_pb2.DISPATCH_WAVES, "layer_timeout": Duration(seconds=5)}
    desk = make_desk(plan, None, **policy)
    desk.step()
    desk.step(desk.ends("a"))
    assert desk.wake_at <= START + 5
    assert desk.step(after=5.0) == ["attempt_stopped"]
    assert desk.attempt("slow").stop == attempt_pb2.STOP_REASON_TIMEOUT
    stopped = desk.ends("slow", ok=False, failure_class=common_pb2.FAILURE_CLASS_TIMEOUT)
    desk.step(stopped)
    assert desk.open() == ["b"]


def test_longest_chain_starts_first_when_places_are_short() -> None:
    desk = make_desk(make_plan(leaf=[], head=[], mid=["head"], tail=["mid"]))
    desk.step(slots=1)
    assert desk.open() == ["head"]


def test_one_failing_agent_of_a_layer_discards_nothing_of_the_others() -> None:
    desk = make_desk(make_plan(a=[], bad=[], c=[]))
    desk.step()
    refused = common_pb2.FAILURE_CLASS_REFUSED
    desk.step(desk.ends("a"), desk.ends("bad", ok=False, failure_class=refused), desk.ends("c"))
    states = {t.task.id: t.state for t in desk.fold.tasks.values()}
    assert states == {
        "a": job_pb2.TASK_STATE_SUCCEEDED,
        "bad": job_pb2.TASK_STATE_FAILED,
        "c": job_pb2.TASK_STATE_SUCCEEDED,
    }
    assert desk.open() == ["r.1"]
    desk.step(desk.ends("r.1"))
    assert desk.fold.state == job_pb2.JOB_STATE_PARTIAL
    assert desk.fold.answer is not None


def test_descendants_of_a_failed_critical_task_are_skipped_and_nothing_else() -> None:
    desk = make_desk(make_plan(crit=[], child=["crit"], grandchild=["child"], other=[]))
    desk.step()
    refused = common_pb2.FAILURE_CLASS_REFUSED
    desk.step(desk.ends("crit", ok=False, failure_class=refused))
    states = {t.task.id: t.state for t in desk.fold.tasks.values()}
    assert states["child"] == states["grandchild"] == job_pb2.TASK_STATE_SKIPPED
    assert desk.open() == ["other"]


def test_descendants_of_a_failed_task_that_is_not_critical_still_run() -> None:
    desk = make_desk(make_plan(a=[], child=["a"]))
    desk.step()
    refused = common_pb2.FAILURE_CLASS_REFUSED
    desk.step(desk.ends("a", ok=False, failure_class=refused))
    assert desk.open() == ["child"]


def test_fail_fast_stops_everything_at_the_first_failure() -> None:
    desk = make_desk(make_plan(a=[], b=[]), failure_policy=job_pb2.FAILURE_POLICY_FAIL_FAST)
    desk.step()
    refused = common_pb2.FAILURE_CLASS_REFUSED
    desk.step(desk.ends("a", ok=False, failure_class=refused))
    desk.step()
    assert desk.attempt("b").stop == attempt_pb2.STOP_REASON_INTERRUPT


# ---- retries


def test_transient_failure_is_tried_again_after_a_backoff_and_only_so_often() -> None:
    desk = make_desk(make_plan(a=[]), max_attempts=2)
    desk.step()
    transient = common_pb2.FAILURE_CLASS_TRANSIENT
    desk.step(desk.ends("a", ok=False, failure_class=transient))
    assert desk.open() == []
    assert START < desk.wake_at < START + 1
    desk.step(after=1.0)
    assert desk.open() == ["a"]
    desk.step(desk.ends("a", ok=False, failure_class=transient))
    assert desk.fold.tasks["1.1"].state == job_pb2.TASK_STATE_FAILED


def test_refusal_costs_no_try_and_honours_the_time_it_names() -> None:
    desk = make_desk(make_plan(a=[]), max_attempts=1)
    desk.step()
    limited = common_pb2.FAILURE_CLASS_RATE_LIMITED
    for _ in range(3):
        desk.step(Refused(desk.attempt("a").key, limited, "full", retry_after=7.0))
        assert desk.open() == []
        desk.step(after=6.9)
        assert desk.open() == []
        desk.step(after=0.2)
        assert desk.open() == ["a"]
    assert desk.fold.spent == desk.fold.unknown == 0


def test_broken_stream_waits_for_its_report_before_it_is_written_off() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    attempt = desk.attempt("a")
    broken = {attempt.key: Broken(desk.now, "the stream broke")}
    assert desk.step(broken=broken) == []
    assert desk.fold.outstanding == attempt.grant.tokens
    report = attempt_pb2.AttemptResult(
        state=attempt_pb2.ATTEMPT_STATE_FAILED,
        calls=[
            attempt_pb2.CallUsage(
                call=1, usage=common_pb2.Usage(prompt_tokens=9, completion_tokens=1)
            )
        ],
    )
    report.failure.failure_class = common_pb2.FAILURE_CLASS_TRANSIENT
    ref = attempt_pb2.AttemptRef(task_uid="1.1", attempt=1)
    desk.fact(attempt_reported=job_pb2.AttemptReported(ref=ref, result=report))
    desk.step(after=6.0)
    assert desk.fold.spent == 10
    assert desk.fold.unknown == 0
    assert desk.open() == ["a"]


def test_broken_stream_without_a_report_is_booked_at_its_grant() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    attempt = desk.attempt("a")
    kinds = desk.step(after=5.0, broken={attempt.key: Broken(START, "the stream broke")})
    assert "attempt_lost" in kinds
    assert desk.fold.unknown == attempt.grant.tokens


def test_late_report_corrects_what_was_unknown_and_counts_once() -> None:
    desk = make_desk(make_plan(a=[], b=[]))
    desk.step()
    attempt = desk.attempt("a")
    desk.step(after=5.0, broken={attempt.key: Broken(START, "broke")})
    report = attempt_pb2.AttemptResult(
        state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED,
        calls=[attempt_pb2.CallUsage(call=1, usage=common_pb2.Usage(prompt_tokens=7))],
        task=task_pb2.TaskResult(items=[task_pb2.ItemAnswer(item_id="a", answer="x")]),
    )
    ref = attempt_pb2.AttemptRef(task_uid="1.1", attempt=1)
    for _ in range(2):
        desk.fact(attempt_reported=job_pb2.AttemptReported(ref=ref, result=report))
    assert (desk.fold.spent, desk.fold.unknown) == (7, 0)
    kinds = [row.kind for row in desk.fold.rows]
    assert kinds == [
        job_pb2.LEDGER_ROW_KIND_UNKNOWN,
        job_pb2.LEDGER_ROW_KIND_RECONCILIATION,
        job_pb2.LEDGER_ROW_KIND_CALL,
    ]
    assert sum(row.unknown_tokens for row in desk.fold.rows) == 0


def test_attempt_of_an_earlier_driver_is_lost_after_the_grace_and_done_again() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    held = desk.fold.outstanding
    desk.fact(epoch=2, job_claimed=job_pb2.JobClaimed(replica="s", epoch=2))
    assert desk.step() == []
    desk.step(after=5.0)
    assert desk.fold.unknown == held
    desk.step(after=1.0)
    assert [a.epoch for a in desk.fold.open_attempts()] == [2]


# ---- grants


def test_covered_call_needs_no_answer() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    attempt = desk.attempt("a")
    intent = attempt_pb2.CallIntent(call=1, prompt_tokens=10, max_completion_tokens=5)
    assert desk.step(Intended(attempt.key, intent)) == []


def test_second_call_is_granted_after_the_first_is_booked() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    key = desk.attempt("a").key
    first = attempt_pb2.CallUsage(
        call=1, usage=common_pb2.Usage(prompt_tokens=30, completion_tokens=5)
    )
    intent = attempt_pb2.CallIntent(
        call=2, prompt_tokens=50, max_completion_tokens=20, previous=first
    )
    assert desk.step(Intended(key, intent)) == ["call_settled", "call_granted"]
    assert desk.fold.spent == 35
    assert desk.fold.outstanding == 70


def test_call_that_the_budget_cannot_pay_is_denied_with_the_reason() -> None:
    desk = Desk(make_created(items=1, budget=300))
    desk.step()
    desk.step()
    attempt = next(iter(desk.fold.open_attempts()))
    intent = attempt_pb2.CallIntent(
        call=1, prompt_tokens=5000, max_completion_tokens=20, min_completion_tokens=5
    )
    desk.step(Intended(attempt.key, intent))
    grant = desk.fold.attempts[attempt.key].grant
    assert grant.denied
    assert "5005" in grant.reason
    assert desk.fold.outstanding == 0


def test_grant_is_clamped_between_what_is_wanted_and_what_is_worth_it() -> None:
    intent = attempt_pb2.CallIntent(
        call=3, prompt_tokens=100, max_completion_tokens=50, min_completion_tokens=10
    )
    assert grant_for(intent, 1000).tokens == 150
    assert grant_for(intent, 120).tokens == 120
    assert grant_for(intent, 109).denied
    assert grant_for(intent, 1000).call == 3


def test_reserve_for_reducing_is_never_lent_to_tasks() -> None:
    plan = make_plan(**{f"t{i}": [] for i in range(6)})
    for task in plan.tasks:
        task.kind = common_pb2.TASK_KIND_WRITE
    created = make_created(items=0, budget=12_000, plan=plan)
    desk = Desk(created, make_rules("standard"))
    desk.step()
    purse = purse_of(desk.fold, desk.rules)
    assert purse.reserved > 0
    for attempt in list(desk.fold.open_attempts()):
        intent = attempt_pb2.CallIntent(
            call=1, prompt_tokens=100, max_completion_tokens=50_000, min_completion_tokens=1
        )
        desk.step(Intended(attempt.key, intent))
    purse = purse_of(desk.fold, desk.rules)
    assert purse.unspent >= purse.reserved > 0


# ---- planning and states


def test_job_waits_in_queue_and_says_why_while_the_model_loads() -> None:
    desk = Desk(make_created())
    loading = RouteState(ready=False, detail="the model server is still loading its model")
    desk.step(routes={"fast": loading})
    assert desk.fold.state == job_pb2.JOB_STATE_QUEUED
    assert desk.fold.reason == loading.detail
    assert desk.step(routes={"fast": loading}) == []
    desk.step(routes={"fast": RouteState(ready=True)})
    assert desk.fold.state == job_pb2.JOB_STATE_PLANNING


def test_task_runs_as_soon_as_it_closes_while_the_plan_goes_on() -> None:
    desk = Desk(make_created(items=3))
    desk.step()
    key = desk.attempt("p.1").key
    task = task_pb2.Task(id="t1", instruction="x", items=[desk.fold.created.items[0]])
    desk.step(Planned(key, analyst_pb2.PlanFragment(index=1, task=task)))
    assert desk.open() == ["p.1", "t1"]
    assert desk.fold.state == job_pb2.JOB_STATE_PLANNING


def test_items_that_a_plan_leaves_out_get_a_task() -> None:
    desk = Desk(make_created(items=3))
    desk.step()
    key = desk.attempt("p.1").key
    task = task_pb2.Task(id="t1", instruction="x", items=[desk.fold.created.items[0]])
    desk.step(Planned(key, analyst_pb2.PlanFragment(index=1, task=task)), desk.ends("p.1"))
    claimed = [i.item_id for t in desk.fold.tasks.values() for i in t.task.items]
    assert claimed == ["q1", "q2", "q3"]
    assert desk.fold.plan_closed is not None


def test_item_belongs_to_the_first_task_that_claims_it() -> None:
    desk = Desk(make_created(items=2))
    desk.step()
    key = desk.attempt("p.1").key
    items = desk.fold.created.items
    one = task_pb2.Task(id="t1", instruction="x", items=[items[0]])
    both = task_pb2.Task(id="t2", instruction="x", items=items, depends_on=["t1", "t9"])
    desk.step(
        Planned(key, analyst_pb2.PlanFragment(index=1, task=one)),
        Planned(key, analyst_pb2.PlanFragment(index=2, task=both)),
    )
    second = desk.fold.task_by_id("t2")
    assert second is not None
    assert [i.item_id for i in second.task.items] == ["q2"]
    assert list(second.task.depends_on) == ["t1"]
    assert second.layer == 1


def test_dead_analyst_is_replaced_by_one_task_for_everything() -> None:
    desk = Desk(make_created(items=3))
    for _ in range(40):
        desk.step(after=6.0)
        if desk.fold.plan_closed is not None:
            break
        for attempt in list(desk.fold.open_attempts()):
            if attempt.uid == "p.1":
                desk.step(desk.ends("p.1", ok=False, message="broken"))
    assert [t.task.id for t in desk.fold.tasks.values()] == ["rest"]
    assert "the Analyst failed" in desk.fold.plan_closed.reason  # type: ignore[union-attr]


def test_both_predictions_are_logged_before_any_token_is_spent() -> None:
    desk = Desk(make_created(items=4))
    kinds = desk.step()
    assert kinds[0] == "shape_decided"
    decided = desk.fold.shape
    assert decided is not None
    assert decided.predicted_single_tokens > 0
    assert decided.predicted_team_tokens > 0
    assert "4 items" in decided.reason


def test_one_agent_is_chosen_when_a_team_does_not_pay() -> None:
    desk = Desk(make_created(items=4), make_rules("standard"))
    desk.step()
    assert desk.fold.shape is not None
    assert desk.fold.shape.shape == job_pb2.JOB_SHAPE_SINGLE
    assert desk.open() == ["all"]


def test_reducer_answers_before_the_deadline_when_work_is_slow() -> None:
    world = World(4, make_created(items=60, deadline=30, budget=50_000), make_rules(), slots=1)
    fold = world.run()
    assert fold.answer is not None
    assert fold.answer.text == "the answer"
    assert any(a.uid == "r.1" and a.result is not None for a in fold.attempts.values())
    stops = [e.attempt_stopped for e in world.log if e.HasField("attempt_stopped")]
    assert [s.reason for s in stops] == [attempt_pb2.STOP_REASON_TIMEOUT]


def test_dead_reducer_still_leaves_an_answer_made_by_code() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    desk.step(desk.ends("a"))
    for _ in range(20):
        if desk.fold.ended:
            break
        if "r.1" in desk.open():
            desk.step(desk.ends("r.1", ok=False, message="broken"))
        desk.step(after=6.0)
    assert desk.fold.answer is not None
    assert "42" in desk.fold.answer.text
    assert "without the Reducer: broken" in desk.fold.answer.text


def test_every_dependency_comes_before_its_dependents() -> None:
    ordered = topological_order(make_plan(c=["b"], b=["a"], a=[]).tasks)
    assert [task.id for task in ordered] == ["a", "b", "c"]


def test_event_ids_of_a_decision_made_again_are_the_same() -> None:
    desk = Desk(make_created())
    first = decide(desk.fold, Observations(), START, desk.rules).events
    again = decide(desk.fold, Observations(), START + 1, desk.rules).events
    assert [e.event_id for e in first] == [e.event_id for e in again]
    assert len({e.event_id for e in first}) == len(first)


def test_stopped_attempt_that_never_answers_is_given_up() -> None:
    world = World(1, make_created(items=4, deadline=120), make_rules(), Faults(deaf=1.0), slots=1)
    world.at(1.0, lambda: world.say(interrupt_requested=job_pb2.InterruptRequested()))
    fold = world.run()
    assert fold.end_time - START < 15
    assert fold.state in (job_pb2.JOB_STATE_PARTIAL, job_pb2.JOB_STATE_FAILED)
