"""A flood of refusals costs a bounded number of rows, and none of them goes uncounted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.meta_agent.access.refusals import BURST, MOST_RESOURCES, RATE, Refusals
from services.meta_agent.store.audit import AuditRow


def refusal(**values: str) -> AuditRow:
    fields = {"method": "GetJob", "code": "NOT_FOUND", "reason": "NOT_FOUND", "tenant": "acme"}
    return AuditRow(**{**fields, **values})  # type: ignore[arg-type]


def test_refusals_alike_within_a_look_are_one_row() -> None:
    refusals = Refusals()
    for number in range(500):
        refusals.add(refusal(request_id=f"r{number}", address="10.0.0.9"), 1.0)
    [row] = refusals.take(1.5)
    assert (row.count, row.request_id, row.address, row.age) == (500, "r0", "10.0.0.9", 0.5)
    assert refusals.take(2.0) == []


def test_callers_methods_and_reasons_are_told_apart() -> None:
    refusals = Refusals()
    for row in (
        refusal(),
        refusal(method="WatchJob"),
        refusal(subject="key:a"),
        refusal(address="10.0.0.9"),
        refusal(reason="OTHER"),
        refusal(tenant=""),
    ):
        refusals.add(row, 0.0)
    assert [row.count for row in refusals.take(0.0)] == [1] * 6


def test_who_tries_many_ids_gets_a_few_rows_and_one_for_the_rest() -> None:
    refusals = Refusals()
    for number in range(100):
        refusals.add(refusal(resource=f"job-{number}"), 0.0)
    rows = refusals.take(0.0)
    assert [row.resource for row in rows] == [f"job-{n}" for n in range(MOST_RESOURCES)] + [""]
    assert sum(row.count for row in rows) == 100


def test_a_varied_flood_is_bounded_in_the_long_run_and_leaves_others_their_detail() -> None:
    refusals = Refusals()
    written = counted = 0
    for second in range(600):
        for number in range(200):
            address = f"2001:db8::{second:x}:{number:x}"
            refusals.add(refusal(tenant="", address=address), float(second))
        rows = refusals.take(float(second))
        written += len(rows)
        counted += sum(row.count for row in rows)
    assert counted == 600 * 200
    assert written <= BURST + RATE * 600 + 600
    refusals.add(refusal(address="10.0.0.9"), 600.0)
    assert [row.address for row in refusals.take(600.0)] == ["10.0.0.9"]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "acme", "zeta"]),
            st.integers(0, 40),
            st.integers(0, 40),
            st.booleans(),
        ),
        max_size=300,
    )
)
def test_every_refusal_is_in_exactly_one_row(
    calls: list[tuple[str, int, int, bool]],
) -> None:
    refusals, counted = Refusals(), 0
    for now, (tenant, address, resource, look) in enumerate(calls):
        row = refusal(tenant=tenant, address=str(address), resource=str(resource))
        refusals.add(row, float(now))
        if look:
            counted += sum(row.count for row in refusals.take(float(now)))
    assert counted + sum(row.count for row in refusals.take(1e6)) == len(calls)
