"""The tries of a call: inside its time, never of what may not happen twice."""

from __future__ import annotations

import pytest

from hma.client.backoff import Backoff
from hma.client.tries import Tries
from hma.errors import HmaError, NotFound, Overloaded, Unavailable

AWAY = Unavailable("away")


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_server_that_is_away_is_tried_so_often_and_no_more() -> None:
    tries = Tries(Backoff(tries=3, first=0.2), 30, clock=Time())
    waits = [tries.wait_after(AWAY) for _ in range(3)]
    assert waits[2] is None
    assert 0.1 <= (waits[0] or 0) <= 0.2 <= (waits[1] or 0) <= 0.4


@pytest.mark.parametrize("failure", [NotFound("no"), Overloaded("full", retry_after=0.1)])
def test_what_the_server_refused_is_not_tried_again(failure: HmaError) -> None:
    assert Tries(Backoff(), 30, clock=Time()).wait_after(failure) is None


def test_what_must_not_happen_twice_is_not_tried_again() -> None:
    assert Tries(Backoff(), 30, once=True, clock=Time()).wait_after(AWAY) is None


def test_no_wait_outlasts_the_time_of_the_call() -> None:
    clock = Time()
    tries = Tries(Backoff(tries=99, first=0.1), 10, clock=clock)
    clock.now += 4
    assert tries.left() == 6
    assert tries.wait_after(Unavailable("away", retry_after=5.9)) is not None
    assert tries.wait_after(Unavailable("away", retry_after=6.0)) is None
    clock.now += 7
    assert tries.left() == 0


def test_what_is_gone_went_with_an_earlier_try_if_there_was_one() -> None:
    tries = Tries(Backoff(), 30, clock=Time())
    assert not tries.was_done_before(NotFound("no"))
    tries.wait_after(AWAY)
    assert tries.was_done_before(NotFound("no"))
    assert not tries.was_done_before(AWAY)
