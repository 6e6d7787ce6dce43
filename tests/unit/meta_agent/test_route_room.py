"""Room on routes: who is first in line gets it, however much it needs."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.meta_agent.store.route_room import SPAN, Load, RouteLimits, lacking, never_fits

TICK = 2.0


@dataclass
class Waiter:
    """A call in line.

    Attributes:
        tokens: Most that it can take.
        first: Since when nobody is before it; None while somebody is.
        dead: It asks no more.
    """

    tokens: int
    first: float | None = None
    dead: bool = False


def load_of(tokens: list[int]) -> Load:
    return Load(len(tokens), sum(tokens))


@given(
    seed=st.integers(0, 2**31),
    requests=st.sampled_from([0, 1, 3, 20]),
    tokens=st.sampled_from([0, 50, 1000]),
)
def test_whoever_is_first_waits_no_longer_than_a_window(
    seed: int, requests: int, tokens: int
) -> None:
    dice, limits = random.Random(seed), RouteLimits(requests=requests, tokens=tokens)
    line: list[Waiter] = []
    book: list[tuple[float, int]] = []
    for now in (TICK * step for step in range(120)):
        line += [Waiter(dice.choice([1, 5, 50, tokens])) for _ in range(dice.randint(0, 4))]
        line = [w for w in line if not never_fits(limits, w.tokens) and not w.dead]
        if line and dice.random() < 0.1:
            dice.choice(line).dead = True
        for waiter in dice.sample(line, len(line)):
            place = next(n for n, each in enumerate(line) if each is waiter)
            if not place and waiter.first is None:
                waiter.first = now
            counted = [used for begun, used in book if begun > now - SPAN]
            ahead = load_of([each.tokens for each in line[:place]])
            if waiter.dead or lacking(limits, load_of(counted), ahead, waiter.tokens):
                continue
            assert not requests or len(counted) < requests
            assert not tokens or sum(counted) + waiter.tokens <= tokens
            book.append((now, dice.choice([waiter.tokens, waiter.tokens // 2])))
            del line[place]
        assert all(now - w.first <= SPAN for w in line if w.first is not None and not w.dead)


def test_what_lacks_includes_those_in_front() -> None:
    limits = RouteLimits(requests=5, tokens=100)
    assert lacking(limits, Load(2, 40), Load(1, 30), 30) is None
    assert lacking(limits, Load(2, 40), Load(1, 30), 31) == Load(-1, 1)
    assert lacking(limits, Load(2, 40), Load(3, 0), 1) == Load(1, -59)
    assert lacking(RouteLimits(), Load(9, 9), Load(9, 9), 9) is None
