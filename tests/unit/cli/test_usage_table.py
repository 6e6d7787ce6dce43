from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from hma.cli.usage_table import footnote, money, usage_table
from hma.v1 import meta_agent_pb2

Row = meta_agent_pb2.UsageRow


def rendered(part: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=160, highlight=False, markup=False).print(part)
    return out.getvalue()


def response(*rows: Row) -> meta_agent_pb2.GetUsageResponse:
    total = Row(
        prompt_tokens=sum(r.prompt_tokens for r in rows),
        completion_tokens=sum(r.completion_tokens for r in rows),
        calls=sum(r.calls for r in rows),
        jobs=1,
    )
    return meta_agent_pb2.GetUsageResponse(rows=rows, total=total)


def test_each_row_has_its_classes_of_tokens_and_the_share_that_was_cached() -> None:
    row = Row(
        route="fast",
        prompt_tokens=12_000,
        cached_prompt_tokens=7_500,
        completion_tokens=800,
        reasoning_tokens=300,
        cost=0.00152,
        calls=40,
        jobs=3,
    )
    header, line = rendered(usage_table(response(row), ["route"], trend=False)).splitlines()
    assert " ".join(header.split()) == (
        "route prompt cached completion reasoning total cost calls jobs"
    )
    assert line.split() == [
        "fast",
        "12,000",
        "62",
        "%",
        "800",
        "300",
        "12,800",
        "0.0015",
        "40",
        "3",
    ]


def test_days_have_bars_and_several_rows_a_total() -> None:
    table = usage_table(
        response(
            Row(day="2026-11-02", prompt_tokens=800, calls=1),
            Row(day="2026-11-01", prompt_tokens=400, calls=1),
            Row(day="2026-10-31", prompt_tokens=1, calls=1),
        ),
        ["day"],
        trend=True,
    )
    _, *lines, total = rendered(table).splitlines()
    assert [line.count("█") for line in lines] == [24, 12, 0]
    assert lines[2].rstrip().endswith("▏")
    assert total.split()[:2] == ["all", "1,201"]


def test_upper_bounds_are_marked_and_explained() -> None:
    row = Row(prompt_tokens=100, upper_bound_tokens=100, calls=1)
    assert "≤ 100" in rendered(usage_table(response(row), [], trend=False))
    assert "100 of these tokens are upper bounds" in footnote(row)
    assert footnote(Row(prompt_tokens=1)) == ""


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "0"), (0.0000314, "0.000031"), (0.5, "0.50"), (1, "1.00"), (1234.567, "1,234.57")],
)
def test_money_keeps_two_digits(amount: float, said: str) -> None:
    assert money(amount) == said
