"""Concurrency, barriers and the critical path, on timings that were worked out by hand."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import attempt_pb2, common_pb2, task_pb2
from services.meta_agent.job.figures import (
    Span,
    agent_timings,
    concurrency_figures,
    critical_path,
    layer_barriers,
    pairwise_overlap_percent,
    time_saved_percent,
)
from services.meta_agent.job.state import AttemptFold, AttemptStatus, JobFold, TaskFold


def make_fold(tasks: dict[str, tuple[int, float, float, list[str]]]) -> JobFold:
    """{id: (layer, start, end, depends_on)}"""
    folds, attempts = {}, {}
    for index, (name, (layer, start, end, after)) in enumerate(tasks.items()):
        uid = f"1.{index + 1}"
        folds[uid] = TaskFold(
            uid=uid,
            task=task_pb2.Task(id=name, depends_on=after),
            layer=layer,
            source=attempt_pb2.PLAN_SOURCE_CALLER,
            allotted=0,
        )
        attempts[(uid, 1)] = AttemptFold(
            uid=uid,
            number=1,
            role=common_pb2.ROLE_WORKER,
            route="fast",
            epoch=1,
            grant=attempt_pb2.Grant(call=1),
            start=start,
            deadline=100.0,
            status=AttemptStatus.FINISHED,
            end=end,
        )
    return JobFold(tasks=MappingProxyType(folds), attempts=MappingProxyType(attempts))


def test_two_equal_agents_side_by_side_save_half_the_time() -> None:
    spans = [Span(0, 2), Span(0, 2)]
    assert time_saved_percent(spans) == pytest.approx(50.0)
    assert pairwise_overlap_percent(spans) == pytest.approx(100.0)


def test_agents_one_after_another_save_nothing() -> None:
    spans = [Span(0, 2), Span(2, 5)]
    assert time_saved_percent(spans) == 0.0
    assert pairwise_overlap_percent(spans) == 0.0


def test_overlap_is_measured_against_the_shorter_agent() -> None:
    assert pairwise_overlap_percent([Span(0, 10), Span(8, 12)]) == pytest.approx(50.0)


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0.01, 50)).map(lambda p: Span(p[0], p[0] + p[1])),
        min_size=1,
        max_size=8,
    )
)
def test_figures_stay_within_their_bounds(spans: list[Span]) -> None:
    saved = time_saved_percent(spans)
    assert 0.0 <= saved <= 100.0 * (len(spans) - 1) / len(spans) + 1e-6
    assert 0.0 <= pairwise_overlap_percent(spans) <= 100.0 + 1e-6


def test_barrier_counts_the_time_until_the_slowest_of_the_layer() -> None:
    fold = make_fold({"a": (0, 0, 1, []), "b": (0, 0, 4, []), "c": (1, 1, 2, ["a"])})
    first, second = layer_barriers(fold)
    assert list(first.agents) == ["a", "b"]
    assert first.wait_time.ToMilliseconds() == 3000
    assert second.wait_time.ToMilliseconds() == 0


def test_concurrency_has_one_entry_a_layer_and_one_for_the_job() -> None:
    fold = make_fold({"a": (0, 0, 2, []), "b": (0, 0, 2, []), "c": (1, 2, 4, ["a"])})
    figures = concurrency_figures(fold)
    assert [f.layer_id for f in figures] == [0, 1, -1]
    assert figures[0].time_saved_percent == pytest.approx(50.0)
    assert figures[2].time_saved_percent == pytest.approx(100 * (1 - 4 / 6))
    assert figures[2].work.ToMilliseconds() == 6000


def test_critical_path_follows_the_longest_durations_not_the_most_tasks() -> None:
    fold = make_fold(
        {
            "slow": (0, 0, 9, []),
            "a": (0, 0, 1, []),
            "b": (1, 1, 2, ["a"]),
            "end": (2, 9, 10, ["slow", "b"]),
        }
    )
    assert critical_path(fold) == ["slow", "end"]


def test_timings_name_the_task_and_its_duration() -> None:
    (timing,) = agent_timings(make_fold({"a": (0, 1.5, 4.0, [])}))
    assert timing.task_id == "a"
    assert timing.duration.ToMilliseconds() == 2500


def test_nothing_that_ran_gives_no_figures() -> None:
    assert concurrency_figures(JobFold()) == []
    assert critical_path(JobFold()) == []
