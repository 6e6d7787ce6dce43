"""The probe's purse: whatever is asked and whatever calls cost, it never pays too much."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from hma.llm.probing.purse import ProbeAttempt, Purse
from hma.v1 import attempt_pb2, common_pb2

CALLS = st.lists(
    st.tuples(
        st.integers(0, 3),  # which attempt
        st.integers(1, 300),  # prompt
        st.integers(1, 300),  # most completion
        st.floats(0, 1),  # share of it that is worth it
        st.floats(0, 1),  # share of the grant that is used
        st.booleans(),  # whether the attempt ends then
    ),
    max_size=40,
)


def an_hour(budget: int) -> Purse:
    return Purse(budget, time.monotonic() + 3600)


@given(st.integers(0, 2000), CALLS)
async def test_spent_and_held_never_exceed_the_budget(
    budget: int, calls: list[tuple[int, int, int, float, float, bool]]
) -> None:
    purse = an_hour(budget)
    attempts = [ProbeAttempt(purse, f"p{n}") for n in range(4)]
    charged = 0
    for number, (which, prompt, most, worth, used, ends) in enumerate(calls, 1):
        attempt = attempts[which]
        least = max(1, int(most * worth))
        grant = await attempt.ask(
            attempt_pb2.CallIntent(
                call=number,
                prompt_tokens=prompt,
                max_completion_tokens=most,
                min_completion_tokens=least,
            )
        )
        assert 0 <= purse.spent + purse.held <= budget
        if grant.denied:
            assert "--budget" in grant.reason
            continue
        assert prompt + least <= grant.tokens <= prompt + most
        completion = int((grant.tokens - prompt) * used)
        charged += prompt + completion
        usage = common_pb2.Usage(prompt_tokens=prompt, completion_tokens=completion)
        attempt.calls.append(attempt_pb2.CallUsage(call=number, usage=usage))
        if ends:
            attempt.settle()
    for attempt in attempts:
        attempt.settle()
    assert (purse.spent, purse.held) == (charged, 0)


async def test_after_the_deadline_nothing_is_granted() -> None:
    purse = Purse(1000, time.monotonic() - 1)
    attempt = ProbeAttempt(purse, "late")
    grant = await attempt.ask(attempt_pb2.CallIntent(call=1, prompt_tokens=1))
    assert grant.denied
    assert "--deadline" in grant.reason
    assert attempt.time_left() == 0
