from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.llm.calibration import Calibration, Outcome, fit
from hma.llm.profiles import PRESETS, derive_profile

OUTCOMES = st.lists(
    st.builds(
        Outcome,
        good=st.booleans(),
        grounded=st.booleans(),
        mean_logprob=st.floats(-20, 0) | st.sampled_from([-1.0, -0.5, 0.0]),
        agreed=st.none() | st.booleans(),
    ),
    max_size=80,
)
LOGPROBS = st.floats(allow_nan=True, allow_infinity=True)


def drawn(count: int, seed: int = 1) -> list[Outcome]:
    """Outcomes that are the better the likelier, and better when grounded."""
    dice = random.Random(seed)
    outcomes = []
    for _ in range(count):
        logprob, grounded = -dice.expovariate(1.0), dice.random() < 0.5
        chance = math.exp(logprob) * (1.0 if grounded else 0.5)
        outcomes.append(
            Outcome(good=dice.random() < chance, grounded=grounded, mean_logprob=logprob)
        )
    return outcomes


@given(OUTCOMES)
def test_knots_rise_and_probabilities_never_fall_nor_are_certain(outcomes: list[Outcome]) -> None:
    made = fit(outcomes)
    assert made.samples == len(outcomes)
    for knots in (made.grounded, made.ungrounded):
        assert knots
        assert all(0 < probability < 1 for _, probability in knots)
        assert all(low[0] < high[0] and low[1] <= high[1] for low, high in pairwise(knots))


@given(OUTCOMES, st.booleans(), LOGPROBS, LOGPROBS)
def test_probability_is_clamped_and_never_falls_with_the_logprob(
    outcomes: list[Outcome], grounded: bool, one: float, other: float
) -> None:
    made = fit(outcomes)
    probabilities = [
        made.probability_good(grounded=grounded, mean_logprob=logprob) for logprob in (one, other)
    ]
    assert all(0 < probability < 1 for probability in probabilities)
    if one < 0 and other < 0:
        assert (one <= other) <= (probabilities[0] <= probabilities[1])


@given(OUTCOMES)
def test_a_table_gives_the_same_calibration_back(outcomes: list[Outcome]) -> None:
    made = fit(outcomes)
    assert Calibration.from_table(json.loads(json.dumps(made.to_table()))) == made


@given(OUTCOMES)
def test_the_order_of_outcomes_does_not_matter(outcomes: list[Outcome]) -> None:
    assert fit(reversed(outcomes)).grounded == fit(outcomes).grounded


def test_the_fit_finds_the_chances_that_outcomes_were_drawn_with() -> None:
    made = fit(drawn(20_000))
    for logprob in (-2.0, -1.0, -0.3):
        for grounded, factor in ((True, 1.0), (False, 0.5)):
            found = made.probability_good(grounded=grounded, mean_logprob=logprob)
            assert found == pytest.approx(math.exp(logprob) * factor, abs=0.12)


def test_an_unknown_logprob_gives_the_share_of_good_answers() -> None:
    outcomes = drawn(4_000)
    made = fit(outcomes)
    for kind in (True, False):
        of_kind = [o.good for o in outcomes if o.grounded is kind]
        found = made.probability_good(grounded=kind, mean_logprob=0)
        assert found == pytest.approx(sum(of_kind) / len(of_kind), abs=0.02)


def test_few_outcomes_say_little() -> None:
    made = fit([Outcome(good=True, grounded=True, mean_logprob=-0.1)])
    assert made.probability_good(grounded=True, mean_logprob=-0.1) < 0.8
    assert made.probability_good(grounded=False, mean_logprob=-0.1) == 0.5


def test_a_kind_without_outcomes_is_never_ranked_the_wrong_way_round() -> None:
    bad = [Outcome(good=False, grounded=True, mean_logprob=-1.0)] * 20
    made = fit(bad)
    grounded, other = (made.probability_good(grounded=g, mean_logprob=-1) for g in (True, False))
    assert other <= grounded < 0.2
    right = [Outcome(good=True, grounded=False, mean_logprob=-1.0)] * 20
    assert fit(right).probability_good(grounded=True, mean_logprob=-1) > 0.9


def test_outcomes_without_logprobs_still_give_a_share() -> None:
    some = [Outcome(good=n % 4 > 0, grounded=True, mean_logprob=0.0) for n in range(40)]
    assert fit(some).probability_good(grounded=True, mean_logprob=-3) == pytest.approx(
        31 / 42, abs=1e-4
    )


def test_agreement_is_measured_where_there_were_two_attempts() -> None:
    def of(good: bool, agreed: bool | None) -> Outcome:
        return Outcome(good=good, grounded=True, mean_logprob=-1.0, agreed=agreed)

    assert fit([of(True, None)]).agreement is None
    assert fit([of(False, True)] * 8).agreement is None
    made = fit([of(True, True)] * 8 + [of(False, False)] * 8)
    assert made.agreement == (0.9, 0.1)


def test_a_profile_carries_its_calibration() -> None:
    made = fit(drawn(60))
    profile = derive_profile({"base": "smollm2", "calibration": made.to_table()}, PRESETS)
    assert profile.calibration == made
    assert PRESETS["smollm2"].calibration is None


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (3, "calibration: expected a table"),
        ({"speed": 1}, "unknown key speed"),
        ({"samples": -1}, "calibration.samples"),
        ({"grounded": [[-1, 2]]}, "calibration.grounded.*from 0 to 1"),
        ({"grounded": [[1, 0.5]]}, "calibration.grounded.*up to 0"),
        ({"grounded": [[-1, 0.5], [-2, 0.6]]}, "must rise"),
        ({"ungrounded": [[-2, 0.5], [-1, 0.4]]}, "must not fall"),
        ({"ungrounded": [[-2]]}, "calibration.ungrounded: expected pairs"),
        ({"ungrounded": [[math.nan, 0.5]]}, "calibration.ungrounded: expected pairs"),
        ({"agreement": [0.5]}, "calibration.agreement"),
        ({"agreement": [0.5, True]}, "calibration.agreement"),
    ],
)
def test_a_wrong_table_is_named(table: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        derive_profile({"calibration": table}, PRESETS)
