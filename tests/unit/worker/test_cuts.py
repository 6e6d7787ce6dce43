"""With how many tokens a cut answer is asked for again, and whether it is at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.worker.cuts import Cuts
from services.worker.schemas import Size

SIZES = st.integers(1, 4000).flatmap(
    lambda most: st.integers(1, most).map(lambda least: Size(most, least))
)


def cut(tokens: int, of: int = 1, size: Size | None = None, *, plain: bool = False) -> Cuts:
    cuts = Cuts(plain=plain)
    cuts.record(["q1"], of, tokens, size or Size(100, 50))
    return cuts


def test_what_a_small_grant_cut_gets_the_full_size_at_least() -> None:
    assert cut(50).size(["q1"], Size(100, 50), 0) == Size(100, 100)


def test_what_the_full_size_cut_gets_twice_as_much() -> None:
    assert cut(100).size(["q1"], Size(100, 50), 0) == Size(200, 150)


def test_a_batch_gets_as_much_for_each_item() -> None:
    # 400 tokens were not enough for 4 items; two of them are asked for again.
    assert cut(400, of=4).size(["q1", "q2"], Size(200, 100), 0) == Size(400, 300)


def test_the_cap_of_a_result_holds() -> None:
    assert cut(100).size(["q1"], Size(100, 50), 120) == Size(120, 120)


def test_other_items_take_what_they_usually_do() -> None:
    assert cut(50).size(["q2"], Size(100, 50), 0) == Size(100, 50)


def test_plain_text_gets_its_full_size_and_never_more() -> None:
    assert cut(20, size=Size(24, 12), plain=True).size(["q1"], Size(24, 12), 0) == Size(24, 24)


def test_plain_text_goes_no_better_but_when_it_was_cut_before_its_full_size() -> None:
    full, short = (cut(t, size=Size(24, 12), plain=True) for t in (24, 12))
    assert not full.may_go_better("q1", 24)
    assert short.may_go_better("q1", 24)
    assert not short.may_go_better("q2", 24)


def test_an_answer_that_may_not_be_longer_goes_no_better_alone_but_among_fewer() -> None:
    assert not cut(100).may_go_better("q1", 100)
    assert cut(100).may_go_better("q1", 101)
    assert cut(400, of=4).may_go_better("q1", 100)


def test_json_that_was_not_cut_may_go_better() -> None:
    assert Cuts(plain=False).may_go_better("q1", 100)


def test_the_latest_call_of_an_item_counts() -> None:
    cuts = cut(12, size=Size(24, 12), plain=True)
    cuts.record(["q1"], 1, 0, Size(24, 24))
    assert not cuts.may_go_better("q1", 24)


@given(st.integers(1, 5000), st.integers(1, 20), SIZES, st.integers(0, 5000), st.booleans())
def test_a_size_is_one_that_can_be_asked_for_and_never_below_the_usual(
    tokens: int, of: int, usual: Size, limit: int, plain: bool
) -> None:
    size = cut(tokens, of, usual, plain=plain).size(["q1"], usual, limit)
    assert 0 < size.least <= size.most
    assert size.most >= usual.most
    assert size.most <= max(usual.most, limit) or not limit
