from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.cli.reconciling import LedgerSums, Verdict, comparison_table, reconcile
from hma.llm.counters import ServerCounters
from hma.v1 import meta_agent_pb2
from tests.unit.cli.test_usage_table import rendered

BEFORE = ServerCounters(1000, 100, 50)
EXACT = LedgerSums(prompt=200, cached=80, completion=20, calls=3)


def after(prompt: int, completion: int, cached: int = 80) -> ServerCounters:
    return ServerCounters(1000 + prompt, 100 + cached, 50 + completion)


def test_equal_sums_agree_to_the_token() -> None:
    found = reconcile(BEFORE, after(200, 20), EXACT)
    assert (found.verdict, found.known, found.at_most) == (Verdict.AGREE, 220, 220)
    assert found.sentence == "they agree to the token"


@pytest.mark.parametrize(
    ("prompt", "completion", "verdict"),
    [
        (201, 20, Verdict.SERVER_HAS_MORE),
        (200, 21, Verdict.SERVER_HAS_MORE),
        (199, 20, Verdict.LEDGER_HAS_MORE),
        (200, 19, Verdict.LEDGER_HAS_MORE),
        # The same sum, but not of the same tokens.
        (199, 21, Verdict.SERVER_HAS_MORE),
        (201, 19, Verdict.LEDGER_HAS_MORE),
    ],
)
def test_one_token_off_is_told(prompt: int, completion: int, verdict: Verdict) -> None:
    found = reconcile(BEFORE, after(prompt, completion), EXACT)
    assert found.verdict is verdict
    assert "1 token " in found.sentence


@given(server=st.integers(0, 400), bound=st.integers(0, 220), unknown=st.integers(0, 100))
def test_with_bounds_the_server_lies_between_what_is_known_and_what_may_be(
    server: int, bound: int, unknown: int
) -> None:
    ledger = replace(EXACT, upper_bound=bound, unknown=unknown)
    found = reconcile(BEFORE, after(max(server - 20, 0), min(server, 20)), ledger)
    if bound or unknown:
        agree = 220 - bound <= server <= 220 + unknown
        assert (found.verdict is Verdict.AGREE) == agree
    else:
        assert (found.verdict is Verdict.AGREE) == (server == 220)


def test_a_server_that_leaves_cached_tokens_out_is_compared_without_them() -> None:
    before = replace(BEFORE, fresh_only=True, cached=None)
    server = ServerCounters(1120, None, 70, fresh_only=True)
    found = reconcile(before, server, EXACT)
    assert found.verdict is Verdict.AGREE
    assert "cached prompt tokens aside" in found.sentence
    assert reconcile(before, replace(server, prompt=1121), EXACT).verdict is not Verdict.AGREE


def test_a_restarted_server_is_named() -> None:
    found = reconcile(BEFORE, ServerCounters(10, 0, 5), EXACT)
    assert found.verdict is Verdict.RESTARTED
    assert found.as_dict()["server"] is None


def test_nothing_at_all_is_said_to_be_nothing() -> None:
    assert "anything" in reconcile(BEFORE, BEFORE, LedgerSums()).sentence


def test_only_the_routes_that_lead_to_the_server_count() -> None:
    rows = [
        meta_agent_pb2.UsageRow(route="fast", prompt_tokens=10, completion_tokens=1, calls=1),
        meta_agent_pb2.UsageRow(
            route="far", prompt_tokens=20, upper_bound_tokens=20, cached_prompt_tokens=5, calls=2
        ),
    ]
    assert LedgerSums.of(rows, (), 7) == LedgerSums(30, 5, 1, 20, 7, 3)
    assert LedgerSums.of(rows, ("fast",), 0) == LedgerSums(10, 0, 1, 0, 0, 1)


def test_the_table_has_both_sides_and_what_is_not_known() -> None:
    ledger = replace(EXACT, upper_bound=30, unknown=40)
    text = rendered(comparison_table(reconcile(BEFORE, after(200, 20), ledger)))
    assert [line.split()[:4] for line in text.splitlines()[1:3]] == [
        ["server", "200", "80", "20"],
        ["ledger", "200", "80", "20"],
    ]
    assert "30  within the ledger" in text
    assert "40  at most, of lost calls" in text
