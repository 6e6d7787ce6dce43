"""What was measured: quantiles with a bounded error, censoring, fallbacks, counters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.history import (
    CENSORED,
    ENOUGH,
    GROWTH,
    MERGE,
    PROSE,
    REDUCE,
    History,
    Key,
    Record,
    Sketch,
    bucket_of,
    task_key,
)
from services.meta_agent.job.apply import apply
from services.meta_agent.job.state import JobFold
from services.meta_agent.recording.fleet_metrics import FleetCounters
from services.meta_agent.recording.history import HistoryCounters
from services.meta_agent.store.fleet import HISTORY
from tests.unit.meta_agent.histories import ANSWER, MEDIUM, sketch
from tests.unit.meta_agent.plans import itemised_plan
from tests.unit.meta_agent.simulation import World, make_created, make_rules

values = st.lists(st.floats(1, 1e6), min_size=1, max_size=60)


@given(values=values, share=st.floats(0.01, 1))
def test_quantile_is_at_most_one_bucket_too_high_and_never_too_low(
    values: list[float], share: float
) -> None:
    exact = sorted(values)[max(math.ceil(share * len(values) - 1e-9) - 1, 0)]
    found = sketch(*values).quantile(share)
    assert exact * (1 - 1e-9) <= found <= exact * GROWTH * (1 + 1e-9)


@given(one=values, other=values)
def test_sum_of_histograms_is_the_histogram_of_all(one: list[float], other: list[float]) -> None:
    both = sketch(*one).plus(sketch(*other))
    assert dict(both.counts) == dict(sketch(*one, *other).counts)
    assert both.total == len(one) + len(other)


@given(values=values, bound=st.floats(0, 1e6))
def test_share_up_to_a_value_is_never_too_high(values: list[float], bound: float) -> None:
    found = sketch(*values).share_up_to(bound)
    exact = sum(value <= bound * 1.0001 for value in values) / len(values)
    assert 0 <= found <= exact + 1e-9


def test_nothing_measured_is_zero() -> None:
    assert Sketch().quantile(0.95) == Sketch().share_up_to(10) == Sketch().total == 0
    assert bucket_of(0) == bucket_of(0.5) == bucket_of(1) == 0


# ---- fallbacks


def record(count: int, completion: float) -> Record:
    return Record(completion=sketch(completion, times=count))


def test_too_few_of_one_complexity_are_read_with_the_others_of_its_kind() -> None:
    low, high = Key("r", "answer", "low"), Key("r", "answer", "high")
    history = History({low: record(ENOUGH, 10), high: record(ENOUGH - 1, 1000)})
    assert history.record(low).completion.total == ENOUGH
    assert history.record(high).completion.total == 2 * ENOUGH - 1
    assert history.record(Key("r", "answer", "medium")).completion.total == 2 * ENOUGH - 1


def test_other_routes_and_kinds_say_nothing() -> None:
    history = History({Key("r", "answer", "low"): record(100, 10)})
    assert history.record(Key("other", "answer", "low")) == Record()
    assert history.record(Key("r", "write", "low")) == Record()


def test_merging_says_nothing_about_prose() -> None:
    merge = Record(milliseconds=sketch(10, times=100))
    history = History({Key("r", REDUCE, MERGE): merge})
    assert history.record(Key("r", REDUCE, PROSE)) == Record()
    assert history.record(Key("r", REDUCE, MERGE)) == merge


# ---- counters


def counted(*calls: attempt_pb2.CallUsage, items: int = 1, extracts: Sequence[str] = ()) -> Record:
    """What is known of answers after one attempt with these calls, that answered q1."""
    rules = make_rules()
    created = make_created(items=items, plan=itemised_plan([items]))
    world = World(1, created, rules)
    while not world.fold.attempts:
        world._drive()
    counters = FleetCounters()
    watch = HistoryCounters(counters, rules)
    fold = world.fold
    result = attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED, calls=calls)
    result.task.items.add(item_id="q1", answer="yes", grounded=True)
    for name in extracts:
        result.task.items.add(item_id=name, answer="no", origin=common_pb2.ORIGIN_EXTRACT)
    ref = attempt_pb2.AttemptRef(task_uid="1.1", attempt=1)
    for event in (
        job_pb2.JobEvent(attempt_finished=job_pb2.AttemptFinished(ref=ref, result=result)),
        job_pb2.JobEvent(
            task_settled=job_pb2.TaskSettled(task_uid="1.1", state=job_pb2.TASK_STATE_SUCCEEDED)
        ),
    ):
        after = apply(fold, event)
        watch.observe(event, fold, after)
        fold = after
    history = History.of(read_back(counters))
    return history.record(task_key(rules.route("fast"), ANSWER, MEDIUM))


def read_back(counters: FleetCounters) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {key: value for key, value in counters.take().items() if key[0] == HISTORY}


def call(
    completion: int, finish: str = "stop", items: int = 1, **usage: int
) -> attempt_pb2.CallUsage:
    made = attempt_pb2.CallUsage(
        call=1,
        purpose=attempt_pb2.CALL_PURPOSE_WORK,
        route="fast",
        finish_reason=finish,
        items=items,
        usage=common_pb2.Usage(
            prompt_tokens=100,
            completion_tokens=completion,
            accuracy=usage.get("accuracy", common_pb2.ACCURACY_EXACT),  # type: ignore[arg-type]
        ),
    )
    made.duration.FromMilliseconds(1500)
    return made


def test_counters_read_back_as_what_was_measured() -> None:
    known = counted(call(40, items=2))
    assert 20 <= known.completion.quantile(0.95) <= 20 * GROWTH
    assert 100 <= known.prompt.quantile(0.5) <= 100 * GROWTH
    assert 1500 <= known.milliseconds.quantile(0.5) <= 1500 * GROWTH
    assert (known.asked, known.weight) == (1, 1)


def test_completion_that_was_cut_counts_as_longer() -> None:
    cut = counted(call(40, finish="length")).completion.quantile(0.95)
    assert 40 * CENSORED <= cut <= 40 * CENSORED * GROWTH


def test_what_was_aborted_or_only_bounded_is_not_measured() -> None:
    bound = common_pb2.ACCURACY_UPPER_BOUND
    for odd in (call(40, finish="abort"), call(40, finish="error"), call(40, accuracy=bound)):
        assert counted(odd).completion.total == 0


def test_items_that_no_call_was_about_do_not_count_as_badly_answered() -> None:
    stopped = counted(call(40), items=50, extracts=["q2", "q3"])
    assert (stopped.asked, stopped.weight) == (1, 1)
    missed = counted(call(40, items=3), items=50, extracts=["q2"])
    assert (missed.asked, missed.weight) == (3, 1.25)


def test_whole_job_measures_each_ended_task_once() -> None:
    rules = make_rules()
    world = World(3, make_created(items=6, budget=20_000), rules)
    world.run()
    counters = FleetCounters()
    watch, fold = HistoryCounters(counters, rules), JobFold()
    for event in world.log:
        after = apply(fold, event)
        watch.observe(event, fold, after)
        fold = after
    totals = read_back(counters)
    asked = sum(v for (_, labels), v in totals.items() if dict(labels)["measure"] == "asked")
    assert asked == 6
