"""The receipt adds up: what became unknown, and what became known after all."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hma.v1 import job_pb2
from services.meta_agent.deciding.receipt import ledger_of
from services.meta_agent.job.state import tokens_of
from tests.unit.meta_agent.simulation import Faults, World, make_created, make_rules
from tests.unit.meta_agent.test_simulated_jobs import PRICES, check_end

CALL = job_pb2.LEDGER_ROW_KIND_CALL
UNKNOWN = job_pb2.LEDGER_ROW_KIND_UNKNOWN
RECONCILIATION = job_pb2.LEDGER_ROW_KIND_RECONCILIATION

LOSSES = Faults(broken=0.4, driver_dies=0.7, late_report=0.6, duplicated=1.0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_rows_add_up_to_the_ledger_however_late_and_often_reports_come(seed: int) -> None:
    rules = make_rules(prices=PRICES)
    world = World(seed, make_created(items=6, budget=20_000), rules, LOSSES)
    fold = world.run()
    check_end(world)
    ledger = ledger_of(fold, rules, rows=True, settled=True)
    assert sum(tokens_of(row.call.usage) for row in ledger.rows) == ledger.spent_tokens
    assert sum(row.unknown_tokens for row in ledger.rows) == ledger.unknown_tokens
    assert abs(sum(row.cost for row in ledger.rows) - ledger.cost) < 1e-9
    open_rows: dict[tuple[str, int], int] = {}
    booked = set()
    for row in ledger.rows:
        key = (row.task_uid, row.attempt)
        if row.kind == UNKNOWN:
            assert row.unknown_tokens > 0
            assert key not in open_rows
            open_rows[key] = row.unknown_tokens
        elif row.kind == RECONCILIATION:
            assert row.unknown_tokens == -open_rows.pop(key), "exactly what was unknown"
        else:
            assert row.kind == CALL
            assert (*key, row.call.call) not in booked, "a call is booked once"
            booked.add((*key, row.call.call))
    assert sum(open_rows.values()) == ledger.unknown_tokens


def test_losses_and_corrections_both_happen_in_these_jobs() -> None:
    kinds = set[int]()
    for seed in range(20):
        world = World(seed, make_created(items=6, budget=20_000), make_rules(), LOSSES)
        kinds.update(row.kind for row in world.run().rows)
    assert kinds == {CALL, UNKNOWN, RECONCILIATION}
