"""A sentence before it is told: where it stands, of which kind it is, what it weighs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from services.meta_agent.edge.explaining.wording import count

PER_KIND = 10
"""Sentences of one kind at most, so that a job of 500 tasks has about 100 in all."""

PER_RARE_KIND = 5
"""The same for what a job has few of, unless somebody plays with it."""

_RARE = frozenset({"trim", "top-up", "request", "quota"})

LAST = 2**62
"""Stands behind everything that has happened."""


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence.

    Attributes:
        sequence: Of the event that it tells of.
        kind: What it is one of, as "N more KINDs" says it.
        text: The sentence.
        weight: The heavier ones are told when there are too many of a kind.
    """

    sequence: int
    kind: str
    text: str
    weight: float = 0.0


def told(said: Iterable[Said]) -> list[str]:
    """The sentences in the order of time, at most so many of a kind and one that says so."""
    kinds: dict[str, list[Said]] = defaultdict(list)
    for sentence in said:
        kinds[sentence.kind].append(sentence)
    kept: list[Said] = []
    for kind, sentences in kinds.items():
        heaviest = sorted(sentences, key=lambda s: (-s.weight, s.sequence))
        heaviest = heaviest[: PER_RARE_KIND if kind in _RARE else PER_KIND]
        kept += heaviest
        left = len(sentences) - len(heaviest)
        if left:
            behind = max(sentence.sequence for sentence in heaviest)
            kept.append(Said(behind, kind, f"And {count(left, f'more {kind}')}."))
    return [_begun(sentence.text) for sentence in sorted(kept, key=lambda s: s.sequence)]


def _begun(text: str) -> str:
    """With a capital where a word begins it; a task's id stays as it is."""
    return text[0].upper() + text[1:] if text.startswith(_WORDS) else text


_WORDS = ("task ", "planning ", "reducing ")
