"""Policies of halting: functions of the logged features alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import job_pb2
from services.meta_agent.deciding.halting import POLICIES, adaptive, fixed


def features(**changes: object) -> job_pb2.RoundFeatures:
    """Features that speak for another round, with these changes."""
    found = job_pb2.RoundFeatures(
        items=4,
        tokens_left=1000,
        reduce_tokens=100,
        max_rounds=3,
        calibrated=True,
        min_gain_per_1000_tokens=0.5,
        another_round=job_pb2.ValueEstimate(
            items=2, tokens=400, gain=1.0, gain_per_1000_tokens=2.5
        ),
    )
    found.time_left.FromSeconds(60)
    found.time_needed.FromSeconds(5)
    for name, value in changes.items():
        if name in ("time_left", "time_needed"):
            getattr(found, name).FromSeconds(value)
        elif hasattr(value, "DESCRIPTOR"):
            getattr(found, name).CopyFrom(value)
        else:
            setattr(found, name, value)
    return found


@pytest.mark.parametrize("policy", [fixed, adaptive])
def test_another_round_that_pays_is_begun(policy: object) -> None:
    verdict = policy(1, features())  # type: ignore[operator]
    assert verdict.another_round
    assert "2 items may gain 1.00 answers for 500 tokens" in verdict.reason


@pytest.mark.parametrize("policy", [fixed, adaptive])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"another_round": job_pb2.ValueEstimate()}, "nothing that another round could improve"),
        ({"max_rounds": 1}, "round 1 of 1 is over"),
        ({"tokens_left": 499}, "need 500 tokens, 499 are left"),
        ({"reduce_tokens": 601}, "need 1001 tokens, 1000 are left"),
        ({"time_needed": 61}, "takes about 61.0 s, 60.0 s are left"),
    ],
)
def test_no_policy_begins_what_cannot_end(
    policy: object, changes: dict[str, object], words: str
) -> None:
    verdict = policy(1, features(**changes))  # type: ignore[operator]
    assert not verdict.another_round
    assert words in verdict.reason


def test_adaptive_stops_below_the_least_gain_per_token_and_gives_the_figures() -> None:
    verdict = adaptive(1, features(min_gain_per_1000_tokens=2.6))
    assert not verdict.another_round
    assert "2.50 answers per 1,000 tokens" in verdict.reason
    assert "2.60 is the least" in verdict.reason
    assert adaptive(1, features(min_gain_per_1000_tokens=2.5)).another_round
    assert fixed(1, features(min_gain_per_1000_tokens=2.6)).another_round


def test_adaptive_needs_calibrated_signals() -> None:
    verdict = adaptive(1, features(calibrated=False))
    assert not verdict.another_round
    assert "not calibrated" in verdict.reason
    assert fixed(1, features(calibrated=False)).another_round


@given(
    round_number=st.integers(1, 5),
    left=st.integers(0, 1000),
    reduce=st.integers(0, 1000),
    tokens=st.integers(0, 1000),
    gain=st.floats(0, 10),
    rounds=st.integers(0, 5),
    policy=st.sampled_from(sorted(POLICIES)),
)
def test_verdict_depends_on_the_features_alone_and_more_tokens_never_halt(
    round_number: int, left: int, reduce: int, tokens: int, gain: float, rounds: int, policy: int
) -> None:
    more = job_pb2.ValueEstimate(items=1, tokens=tokens, gain=gain, gain_per_1000_tokens=gain)
    seen = features(tokens_left=left, reduce_tokens=reduce, another_round=more, max_rounds=rounds)
    copy = job_pb2.RoundFeatures.FromString(seen.SerializeToString())
    verdict = POLICIES[policy](round_number, seen)
    assert POLICIES[policy](round_number, copy) == verdict
    assert copy == seen
    copy.tokens_left += 100
    if verdict.another_round:
        assert POLICIES[policy](round_number, copy).another_round
        assert round_number < rounds
        assert tokens + reduce <= left
