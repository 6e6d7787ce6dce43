"""How much a route's signals of quality are worth: from a signal to a probability.

Two signals of a good answer cost no tokens: whether it stands word for word in its source
(grounded), and the mean log-probability of its call. How they relate to good answers
differs from model to model, so it is measured, by `hma probe` or from recorded outcomes,
and kept in the route's profile.

The fit is isotonic regression: the best curve that never falls (pool adjacent violators;
Ayer, Brunk, Ewing, Reid, Silverman 1955; for calibration Zadrozny and Elkan 2002), over
groups of equal count, grounded answers apart from others. Each group is pulled by two
imagined outcomes towards the share of good answers of its kind, Laplace's
(good + 1) / (n + 2). No probability is surer than Laplace's rule is of n outcomes that were
all good or all bad, so none is 0 or 1.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Knots = tuple[tuple[float, float], ...]

_GROUPS = 8
_LEAST_PER_GROUP = 3
_IMAGINED = 2.0
_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An answer that was judged.

    Attributes:
        good: It was right.
        grounded: It stands word for word in its source.
        mean_logprob: Of its call; 0 when not known.
        agreed: Whether a second attempt gave the same answer; None when there was none.
    """

    good: bool
    grounded: bool
    mean_logprob: float
    agreed: bool | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """The probability that an answer is good, given its signals.

    A knot is (upper bound of mean log-probability, probability). Bounds rise,
    probabilities never fall; the last knot holds for all above it, too. Knots stand for
    about equally many outcomes.

    Attributes:
        samples: Outcomes that it was fitted to.
        grounded: Knots for answers that stand word for word in their source.
        ungrounded: Knots for other answers.
        agreement: The probability when two attempts agree, and when they differ; None
            when that was not measured, or only one of them was seen.
    """

    samples: int
    grounded: Knots
    ungrounded: Knots
    agreement: tuple[float, float] | None = None

    def probability_good(self, *, grounded: bool, mean_logprob: float) -> float:
        """The probability that an answer is good.

        Args:
            grounded: It stands word for word in its source.
            mean_logprob: Of its call. 0 means not known: the mean over the knots, which is
                the share of good answers of its kind.
        """
        knots = self.grounded if grounded else self.ungrounded
        if not knots:
            return 0.5
        # A log-probability is below 0; whatever else comes says nothing.
        if not mean_logprob < 0:
            return math.fsum(probability for _, probability in knots) / len(knots)
        at = bisect_left(knots, mean_logprob, key=lambda knot: knot[0])
        return knots[min(at, len(knots) - 1)][1]

    def to_table(self) -> dict[str, Any]:
        """For a profile's table in a routes file."""
        table: dict[str, Any] = {
            "samples": self.samples,
            "grounded": [list(knot) for knot in self.grounded],
            "ungrounded": [list(knot) for knot in self.ungrounded],
        }
        if self.agreement is not None:
            table["agreement"] = list(self.agreement)
        return table

    @classmethod
    def from_table(cls, table: Any) -> Calibration:
        """From a profile's table in a routes file.

        Raises:
            ValueError: It is not what `to_table` writes; the message names the key.
        """
        if not isinstance(table, Mapping):
            raise ValueError(f"calibration: expected a table, got {table!r}")
        unknown = set(table) - {"samples", "grounded", "ungrounded", "agreement"}
        if unknown:
            raise ValueError(f"calibration: unknown key {', '.join(sorted(unknown))}")
        samples = table.get("samples", 0)
        if type(samples) is not int or samples < 0:
            raise ValueError(f"calibration.samples: expected a number from 0, got {samples!r}")
        agreement = table.get("agreement")
        return cls(
            samples,
            _knots(table, "grounded"),
            _knots(table, "ungrounded"),
            None if agreement is None else _agreement(agreement),
        )


def fit(outcomes: Iterable[Outcome]) -> Calibration:
    """The calibration that outcomes speak for.

    A kind of answer without outcomes gets one probability: a half, which is Laplace's
    rule for no outcomes, but no more than that of grounded answers, or no less than that
    of others.

    Args:
        outcomes: Any number, in any order.
    """
    known = list(outcomes)
    of = {kind: [o for o in known if o.grounded is kind] for kind in (True, False)}
    share = {kind: _laplace(sum(o.good for o in some), len(some)) for kind, some in of.items()}
    without = {True: max(0.5, share[False]), False: min(0.5, share[True])}
    grounded, ungrounded = (
        _curve(of[kind], share[kind]) if of[kind] else ((0.0, round(without[kind], _DIGITS)),)
        for kind in (True, False)
    )
    return Calibration(len(known), grounded, ungrounded, _agreement_of(known))


def _laplace(good: int, of: int) -> float:
    return (good + 1) / (of + 2)


def _agreement_of(outcomes: Sequence[Outcome]) -> tuple[float, float] | None:
    same, other = ([o.good for o in outcomes if o.agreed is answer] for answer in (True, False))
    # With outcomes of one kind only, nothing can be said of the difference.
    if not same or not other:
        return None
    agree, differ = _laplace(sum(same), len(same)), _laplace(sum(other), len(other))
    return round(agree, _DIGITS), round(differ, _DIGITS)


def _curve(outcomes: Sequence[Outcome], share: float) -> Knots:
    """Knots of one kind of answer."""
    scored = sorted((o for o in outcomes if o.mean_logprob < 0), key=lambda o: o.mean_logprob)
    if not scored:
        return ((0.0, round(share, _DIGITS)),)
    groups = _groups(scored)
    values = [
        (sum(o.good for o in group) + _IMAGINED * share) / (len(group) + _IMAGINED)
        for group in groups
    ]
    surest = _laplace(0, len(scored)), _laplace(len(scored), len(scored))
    risen = [
        min(max(value, surest[0]), surest[1])
        for value in _pool(values, [len(group) + _IMAGINED for group in groups])
    ]
    bounds = [round(group[-1].mean_logprob, _DIGITS) for group in groups]
    # Rounding may make two bounds one: the higher group's probability holds there.
    knots = dict(zip(bounds, (round(value, _DIGITS) for value in risen), strict=True))
    return tuple(knots.items())


def _groups(scored: Sequence[Outcome]) -> list[list[Outcome]]:
    """Parts of about equal size; what has the same log-probability stays together."""
    parts = max(1, min(_GROUPS, len(scored) // _LEAST_PER_GROUP))
    groups: list[list[Outcome]] = [[]]
    for number, outcome in enumerate(scored):
        last = groups[-1]
        full = number >= len(scored) * len(groups) / parts
        if full and last and last[-1].mean_logprob < outcome.mean_logprob:
            groups.append([])
        groups[-1].append(outcome)
    return groups


def _pool(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The rising sequence that is closest to `values` in weighted squares."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            before = blocks.pop()
            total = before[1] + block[1]
            mean = (before[0] * before[1] + block[0] * block[1]) / total
            block = (mean, total, before[2] + block[2])
        blocks.append(block)
    return [value for value, _, count in blocks for _ in range(count)]


def _knots(table: Mapping[str, Any], key: str) -> Knots:
    entries = table.get(key, [])
    fault = f"calibration.{key}: expected pairs of log-probability and probability"
    if not isinstance(entries, list) or not all(
        isinstance(entry, list) and len(entry) == 2 and all(map(_is_number, entry))
        for entry in entries
    ):
        raise ValueError(f"{fault}, got {entries!r}")
    knots = tuple((float(bound), float(probability)) for bound, probability in entries)
    if any(bound > 0 or not 0 <= probability <= 1 for bound, probability in knots):
        raise ValueError(f"{fault}: the first up to 0, the second from 0 to 1")
    if any(low[0] >= high[0] or low[1] > high[1] for low, high in pairwise(knots)):
        raise ValueError(f"{fault}: the first must rise, the second must not fall")
    return knots


def _agreement(entries: Any) -> tuple[float, float]:
    if (
        not isinstance(entries, list)
        or len(entries) != 2
        or not all(_is_number(entry) and 0 <= entry <= 1 for entry in entries)
    ):
        raise ValueError(f"calibration.agreement: expected two probabilities, got {entries!r}")
    return float(entries[0]), float(entries[1])


def _is_number(value: Any) -> bool:
    # type(), because True is an int to isinstance.
    return type(value) in (int, float) and math.isfinite(value)
