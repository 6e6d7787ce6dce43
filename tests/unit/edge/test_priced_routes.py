"""A limit in money is refused where the price is unknown, and only there."""

from __future__ import annotations

import pytest

from hma.errors import InvalidRequest
from hma.llm.prices import UNKNOWN, Prices
from hma.llm.profiles import PRESETS
from hma.llm.routes import Route, Routes
from services.meta_agent.edge.admission import Admission, admit
from tests.unit.edge.factory import create_request


def admit_with(prices: Prices, *, max_cost: float) -> None:
    route = Route(
        name="own", base_url="http://v/v1", model="m", profile=PRESETS["smollm2"], prices=prices
    )
    admission = Admission(
        routes=Routes({"own": route}, "own"), default_deadline=600, max_attempts=3
    )
    request = create_request()
    request.job.budget.max_tokens = 2000
    request.job.budget.max_cost = max_cost
    admit(request, admission, job_id="j", event_id="e", tenant="t", now=1.0)


def test_an_unknown_price_is_refused_and_the_message_says_what_to_set() -> None:
    with pytest.raises(InvalidRequest) as error:
        admit_with(UNKNOWN, max_cost=0.5)
    (violation,) = error.value.violations
    assert violation.field == "job.budget.max_cost"
    for name in ("HMA_LLM_PRICE_PROMPT", "HMA_LLM_PRICE_COMPLETION", "[routes.own.prices]"):
        assert name in violation.description


@pytest.mark.parametrize("prices", [Prices(), Prices(prompt=1, completion=2)])
def test_free_and_priced_tokens_take_a_limit_in_money(prices: Prices) -> None:
    admit_with(prices, max_cost=0.5)


def test_without_a_limit_in_money_no_price_is_needed() -> None:
    admit_with(UNKNOWN, max_cost=0.0)
