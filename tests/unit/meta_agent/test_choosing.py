"""What so many tokens are to buy: pure choices over needs."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import attempt_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.choosing import KEPT, Choice, Need, choose
from services.meta_agent.job.state import TaskFold


def need(name: str, tokens: int, gain: float, *after: str, floor: int = 0, height: int = 0) -> Need:
    """A need; without a gain it only serves others."""
    value = job_pb2.ValueEstimate(
        items=1 if gain else 0, tokens=tokens, gain=gain, gain_per_1000_tokens=1000 * gain / tokens
    )
    task = TaskFold(
        uid=name,
        task=task_pb2.Task(id=name, depends_on=after),
        layer=0,
        source=attempt_pb2.PLAN_SOURCE_CALLER,
        allotted=0,
    )
    return Need(task, tokens, floor or tokens, value, height)


def chosen(tokens: int, *needs: Need, holders: frozenset[str] = frozenset()) -> Choice:
    return choose({each.task.uid: each for each in needs}, tokens, holders)


def names(needs: tuple[Need, ...]) -> list[str]:
    return [each.task.uid for each in needs]


def test_all_that_is_paid_for_is_funded_and_the_longest_chain_comes_first() -> None:
    choice = chosen(
        300,
        need("leaf", 100, 1.0),
        need("head", 100, 1.0, height=1),
        need("tail", 100, 1.0, "head"),
    )
    assert names(choice.whole) == ["head", "leaf", "tail"]
    assert choice.partial == choice.waiting == ()


def test_leaf_of_least_gain_per_token_waits_and_later_ones_of_equals_first() -> None:
    poor = need("poor", 100, 0.2)
    assert names(chosen(200, need("a", 100, 0.5), poor, need("b", 100, 0.5)).waiting) == ["poor"]
    equal = [need(name, 100, 0.5) for name in "abc"]
    assert names(chosen(200, *equal).waiting) == ["c"]


def test_what_only_served_others_goes_with_the_last_of_them() -> None:
    helper = need("helper", 100, 0.0)
    cheap = need("cheap", 100, 0.1, "helper")
    choice = chosen(250, helper, cheap, need("good", 100, 0.9))
    # The rest would pay for the helper, but it would serve nobody.
    assert names(choice.whole) == ["good"]
    assert set(names(choice.waiting)) == {"helper", "cheap"}


def test_what_is_left_brings_a_whole_chain_back() -> None:
    large = need("large", 1000, 3.0, floor=900)
    chain = (need("helper", 100, 0.0), need("item", 100, 0.2, "helper"))
    choice = chosen(600, *chain, large)
    assert set(names(choice.whole)) == {"helper", "item"}
    assert names(choice.waiting) == ["large"]


def test_what_is_left_lets_the_best_of_the_rest_begin() -> None:
    choice = chosen(150, need("a", 100, 0.9), need("b", 100, 0.5, floor=40))
    assert names(choice.whole) == ["a"]
    assert names(choice.partial) == ["b"]
    assert names(chosen(139, need("a", 100, 0.9), need("b", 100, 0.5, floor=40)).waiting) == ["b"]


def test_task_that_has_its_tokens_gives_them_up_only_to_a_clearly_better_one() -> None:
    old = need("old", 100, 0.5)
    held = frozenset({"old"})
    slightly, clearly = need("new", 100, 0.55), need("new", 100, 0.5 * KEPT + 0.05)
    assert names(chosen(100, old, slightly, holders=held).whole) == ["old"]
    assert names(chosen(100, old, slightly).whole) == ["new"]
    assert names(chosen(100, old, clearly, holders=held).whole) == ["new"]


@st.composite
def plans(draw: st.DrawFn, *, edges: bool = True) -> tuple[Need, ...]:
    """Needs of a plan, every dependency before its dependents."""
    found: list[Need] = []
    for index in range(draw(st.integers(1, 7))):
        after = draw(st.sets(st.integers(0, index - 1), max_size=2)) if index and edges else set()
        tokens = draw(st.integers(1, 100))
        gain = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]))
        floor = draw(st.integers(1, tokens))
        found.append(need(f"t{index}", tokens, gain, *(f"t{i}" for i in after), floor=floor))
    return tuple(found)


@given(needs=plans(), tokens=st.integers(0, 400), held=st.sets(st.integers(0, 6)))
def test_choice_never_costs_more_than_there_is_nor_funds_a_task_without_its_inputs(
    needs: tuple[Need, ...], tokens: int, held: set[int]
) -> None:
    choice = chosen(tokens, *needs, holders=frozenset(f"t{n}" for n in held))
    everything = [*choice.whole, *choice.partial, *choice.waiting]
    assert sorted(names(tuple(everything))) == sorted(each.task.uid for each in needs)
    floors = sum(each.floor for each in choice.partial)
    assert sum(each.tokens for each in choice.whole) + floors <= tokens
    whole = set(names(choice.whole))
    for each in (*choice.whole, *choice.partial):
        assert set(each.task.task.depends_on) <= whole


@given(needs=plans(edges=False), tokens=st.integers(0, 400))
def test_choice_is_within_one_gain_of_the_best_there_is(
    needs: tuple[Need, ...], tokens: int
) -> None:
    best = max(
        sum(each.value.gain for each in some)
        for size in range(len(needs) + 1)
        for some in combinations(needs, size)
        if sum(each.tokens for each in some) <= tokens
    )
    choice = chosen(tokens, *needs)
    left_out = max((n.value.gain for n in (*choice.partial, *choice.waiting)), default=0.0)
    assert sum(each.value.gain for each in choice.whole) + left_out >= best - 1e-9


@given(needs=plans(edges=False), tokens=st.integers(0, 400), more=st.integers(0, 200))
def test_more_tokens_never_cost_more_than_one_gain(
    needs: tuple[Need, ...], tokens: int, more: int
) -> None:
    # Greedy is not monotone: one token more may fit a larger task in place of two small
    # ones. What that can cost is bounded by the bound above.
    few, many = chosen(tokens, *needs), chosen(tokens + more, *needs)
    out = max((n.value.gain for n in (*many.partial, *many.waiting)), default=0.0)
    have = sum(n.value.gain for n in many.whole)
    assert have + out >= sum(n.value.gain for n in few.whole) - 1e-9
