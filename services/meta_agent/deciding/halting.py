"""Whether another round is worth it: policies, each a function of logged features alone.

So a policy can be tried on the logs of jobs that are over, and one that is learned can
follow: it gets `RoundFeatures` and gives a verdict, and has nothing else to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hma.v1 import job_pb2


@dataclass(frozen=True, slots=True)
class Verdict:
    """Halt, or another round.

    Attributes:
        another_round: Whether another round follows.
        reason: Why, in words.
    """

    another_round: bool
    reason: str


Policy = Callable[[int, job_pb2.RoundFeatures], Verdict]


def fixed(round_number: int, features: job_pb2.RoundFeatures) -> Verdict:
    """Another round while there may be one, it is paid for, and something may gain.

    Args:
        round_number: The round that is over, from 1.
        features: What it came to, and what another would take.
    """
    stopped = _impossible(round_number, features)
    if stopped is not None:
        return stopped
    return Verdict(True, f"round {round_number + 1} of {features.max_rounds}: {_gain(features)}")


def adaptive(round_number: int, features: job_pb2.RoundFeatures) -> Verdict:
    """Another round while its expected gain per token is above the job's threshold.

    Without calibrated signals the expected gain means little: then one round is enough.
    """
    stopped = _impossible(round_number, features)
    if stopped is not None:
        return stopped
    if not features.calibrated:
        return Verdict(False, "the route's signals of quality are not calibrated (hma probe)")
    gain = features.another_round.gain_per_1000_tokens
    least = features.min_gain_per_1000_tokens
    if gain < least:
        return Verdict(
            False,
            f"another round would gain {gain:.2f} answers per 1,000 tokens, "
            f"and {least:.2f} is the least that is worth it",
        )
    return Verdict(True, _gain(features))


POLICIES: Mapping[int, Policy] = MappingProxyType(
    {
        job_pb2.HALTING_POLICY_UNSPECIFIED: fixed,
        job_pb2.HALTING_POLICY_FIXED: fixed,
        job_pb2.HALTING_POLICY_ADAPTIVE: adaptive,
    }
)


def _impossible(round_number: int, features: job_pb2.RoundFeatures) -> Verdict | None:
    """Why no policy can go on; None when it may."""
    more = features.another_round
    if more.items == 0 or more.gain <= 0:
        return Verdict(False, "there is nothing that another round could improve")
    if round_number >= features.max_rounds:
        return Verdict(False, f"round {round_number} of {features.max_rounds} is over")
    # No round is started unless reducing after it is paid for (SPINE, section 4).
    needed = more.tokens + features.reduce_tokens
    if needed > features.tokens_left:
        return Verdict(
            False,
            f"another round and its reducing need {needed} tokens, {features.tokens_left} are left",
        )
    left, time = _seconds(features.time_left), _seconds(features.time_needed)
    if time > left:
        return Verdict(False, f"another round takes about {time:.1f} s, {left:.1f} s are left")
    return None


def _gain(features: job_pb2.RoundFeatures) -> str:
    more = features.another_round
    return (
        f"{more.items} items may gain {more.gain:.2f} answers "
        f"for {more.tokens + features.reduce_tokens} tokens"
    )


def _seconds(duration: object) -> float:
    return duration.seconds + duration.nanos / 1e9  # type: ignore[attr-defined, no-any-return]
