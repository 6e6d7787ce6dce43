from __future__ import annotations

import math
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma import settings
from hma.errors import SettingsError
from hma.llm.hosted_prices import hosted_prices
from hma.llm.prices import UNKNOWN, Prices, PriceTable
from hma.llm.profiles import PRESETS
from hma.llm.routes import Route, Routes, load_routes
from hma.llm.settings import LlmSettings

TOKENS = st.integers(0, 10**7)
MONEY = st.floats(0, 1000)
RATE = st.floats(0.5, 1e6)
TODAY = date(2026, 11, 20)


@st.composite
def any_prices(draw: st.DrawFn) -> Prices:
    return Prices(prompt=draw(MONEY), cached_prompt=draw(MONEY), completion=draw(MONEY))


def routes(**environ: str) -> Routes:
    return load_routes(settings.load(LlmSettings, environ), environ)


def table(tmp_path: Path, prices: str) -> Route:
    path = tmp_path / "routes.toml"
    path.write_text(f"[routes.a]\nmodel = 'm'\n[routes.a.prices]\n{prices}", encoding="utf-8")
    return routes(HMA_ROUTES_FILE=str(path)).default


@given(any_prices(), TOKENS, TOKENS, st.floats(0, 1))
def test_no_call_costs_more_than_its_most(
    prices: Prices, prompt: int, completion: int, share: float
) -> None:
    cached = int(prompt * share)
    cost = prices.cost(prompt=prompt, cached_prompt=cached, completion=completion)
    most = prices.most_cost(prompt, completion)
    assert 0 <= cost <= most * (1 + 1e-9)
    assert most <= prices.dearest * (prompt + completion) * (1 + 1e-9)


@given(any_prices(), st.floats(0.01, 1000), TOKENS, TOKENS)
def test_money_never_buys_more_paid_tokens_than_the_cheapest_allow(
    prices: Prices, money: float, prompt: int, completion: int
) -> None:
    paid = (prompt if prices.prompt else 0) + (completion if prices.completion else 0)
    cost = prices.cost(prompt=prompt, cached_prompt=0, completion=completion)
    if prices.cheapest and cost <= money:
        assert paid <= money / prices.cheapest * (1 + 1e-9)


def test_cheapest_skips_what_is_free_and_what_is_cached() -> None:
    assert Prices(prompt=2, cached_prompt=0.1, completion=8).cheapest == pytest.approx(2e-6)
    assert Prices(prompt=0, cached_prompt=0, completion=8).cheapest == pytest.approx(8e-6)
    assert Prices().cheapest == 0


def test_free_and_unknown_differ() -> None:
    assert not routes().default.priced
    free = routes(HMA_LLM_PRICE_PROMPT="0", HMA_LLM_PRICE_COMPLETION="0").default
    assert free.priced
    assert free.dearest == UNKNOWN.dearest == 0
    assert Route(
        name="r", base_url="u", model="m", profile=PRESETS["smollm2"], prices=Prices()
    ).priced


@given(MONEY, st.integers(1, 64), RATE, RATE)
def test_a_busy_hour_costs_what_the_gpus_cost(
    hour: float, gpus: int, reading: float, writing: float
) -> None:
    prices = PriceTable(
        gpu_hour=hour,
        gpus=gpus,
        prompt_tokens_per_second=reading,
        completion_tokens_per_second=writing,
    ).resolve(str)
    for price, rate in ((prices.prompt, reading), (prices.completion, writing)):
        assert price >= 0
        assert price / 1e6 * rate * 3600 == pytest.approx(hour * gpus)
    assert prices.cached_prompt == prices.prompt


def test_gpu_hours_come_from_the_settings() -> None:
    route = routes(
        HMA_LLM_PRICE_GPU_HOUR="1.8",
        HMA_LLM_PRICE_GPUS="2",
        HMA_LLM_PRICE_PROMPT_TOKENS_PER_SECOND="5000",
        HMA_LLM_PRICE_CACHED_PROMPT_TOKENS_PER_SECOND="100000",
        HMA_LLM_PRICE_COMPLETION_TOKENS_PER_SECOND="1000",
    ).default
    assert route.cost(prompt=5000, cached_prompt=0, completion=0) == pytest.approx(0.001)
    assert route.cost(prompt=100_000, cached_prompt=100_000, completion=0) == pytest.approx(0.001)
    assert route.most_cost(0, 1000) == pytest.approx(0.001)


def test_gpu_hours_come_from_the_routes_file(tmp_path: Path) -> None:
    route = table(
        tmp_path,
        "gpu_hour = 3.6\nprompt_tokens_per_second = 1000\ncompletion_tokens_per_second = 10",
    )
    assert route.cost(prompt=1000, cached_prompt=0, completion=10) == pytest.approx(0.002)


def test_cached_tokens_without_a_price_are_not_free() -> None:
    made = routes(HMA_LLM_PRICE_PROMPT="2", HMA_LLM_PRICE_COMPLETION="4").default
    assert made.cost(prompt=10**6, cached_prompt=10**6, completion=0) == pytest.approx(2)


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"HMA_LLM_PRICE_PROMPT": "1"}, "HMA_LLM_PRICE_COMPLETION: is missing"),
        ({"HMA_LLM_PRICE_CACHED_PROMPT": "1"}, "HMA_LLM_PRICE_PROMPT: is missing"),
        ({"HMA_LLM_PRICE_PROMPT": "-1"}, "HMA_LLM_PRICE_PROMPT: expected 0 or more"),
        ({"HMA_LLM_PRICE_PROMPT": "dear"}, "HMA_LLM_PRICE_PROMPT: expected a number"),
        (
            {"HMA_LLM_PRICE_PROMPT": "inf", "HMA_LLM_PRICE_COMPLETION": "1"},
            "HMA_LLM_PRICE_PROMPT: expected a number from 0",
        ),
        (
            {"HMA_LLM_PRICE_PROMPT": "1", "HMA_LLM_PRICE_GPU_HOUR": "1"},
            "HMA_LLM_PRICE_GPU_HOUR and HMA_LLM_PRICE_PROMPT exclude each other",
        ),
        (
            {"HMA_LLM_PRICE_GPU_HOUR": "1"},
            "HMA_LLM_PRICE_PROMPT_TOKENS_PER_SECOND: is missing",
        ),
        ({"HMA_LLM_PRICE_GPUS": "2"}, "HMA_LLM_PRICE_GPU_HOUR: is missing"),
        (
            {
                "HMA_LLM_PRICE_GPU_HOUR": "1",
                "HMA_LLM_PRICE_PROMPT_TOKENS_PER_SECOND": "0",
                "HMA_LLM_PRICE_COMPLETION_TOKENS_PER_SECOND": "1",
            },
            "HMA_LLM_PRICE_PROMPT_TOKENS_PER_SECOND: expected more than 0",
        ),
    ],
)
def test_a_wrong_price_is_named(environ: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        routes(**environ)


@pytest.mark.parametrize(
    ("prices", "fault"),
    [
        ("tip = 1", "routes.a.prices: unknown key tip"),
        ("prompt = '1'", "routes.a.prices.prompt: expected a number"),
        ("prompt = true", "routes.a.prices.prompt: expected a number"),
        ("prompt = nan\ncompletion = 1", "routes.a.prices.prompt: expected a number from 0"),
        ("prompt = 1", "routes.a.prices.completion: is missing"),
        ("prompt = 1\ncompletion = 1\ngpus = 2", "routes.a.prices.gpus and .*prompt exclude"),
    ],
)
def test_a_wrong_price_in_the_file_is_named(tmp_path: Path, prices: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        table(tmp_path, prices)


def test_known_hosted_models_have_prices() -> None:
    route = routes(HMA_LLM_BASE_URL="https://api.openai.com/v1", HMA_LLM_MODEL="gpt-5").default
    assert route.priced
    assert route.prices == Prices(prompt=1.25, cached_prompt=0.125, completion=10)


def test_configured_prices_come_before_hosted_ones() -> None:
    route = routes(
        HMA_LLM_BASE_URL="https://api.openai.com/v1",
        HMA_LLM_MODEL="gpt-5",
        HMA_LLM_PRICE_PROMPT="0.5",
        HMA_LLM_PRICE_COMPLETION="1",
    ).default
    assert route.prices.prompt == 0.5


def test_the_dearest_tier_counts() -> None:
    prices = hosted_prices("https://api.openai.com/v1", "gpt-5.4", TODAY)
    assert prices is not None
    # 2.50 and 15 up to 272,000 tokens; more beyond.
    assert prices.prompt > 2.5
    assert prices.completion > 15


def test_a_price_that_was_replaced_does_not_count_and_a_coming_one_does() -> None:
    url, model = "https://api.openai.com/v1", "gpt-5.6-luna"
    before, after = (hosted_prices(url, model, day) for day in (date(2026, 1, 1), TODAY))
    assert before is not None
    assert after is not None
    # 0.20 a million since July instead of 1.00, 1.25 when it enters the cache; dearest tier twice.
    assert before.prompt == pytest.approx(2.5)
    assert after.prompt < 1


@pytest.mark.parametrize(
    ("base_url", "model"),
    [
        ("http://vllm:8000/v1", "gpt-5"),
        ("https://10.0.0.7/v1", "gpt-5"),
        ("https://vllm.example.com/v1", "gpt-5"),
        ("https://api.openai.com.example.com/v1", "gpt-5"),
        ("https://api.openai.com/v1", ""),
        ("https://api.openai.com/v1", "no-such-model"),
        # Charged per request as well.
        ("https://api.perplexity.ai", "sonar"),
    ],
)
def test_what_is_not_known_has_no_price(base_url: str, model: str) -> None:
    assert hosted_prices(base_url, model, TODAY) is None


def test_every_hosted_price_is_a_price() -> None:
    from genai_prices.data import providers

    found = [
        prices
        for provider in providers
        for model in provider.models
        for url in (_a_url(provider.api_pattern),)
        if url and (prices := hosted_prices(url, model.id, TODAY))
    ]
    assert len(found) > 50
    for prices in found:
        for price in (prices.prompt, prices.cached_prompt, prices.completion):
            assert 0 <= price < math.inf
        assert prices.cheapest <= prices.dearest


def _a_url(pattern: str) -> str:
    """A URL that a simple pattern matches; empty for one with alternatives."""
    plain = pattern.replace("\\.", ".").removesuffix("(?:/|$)").removesuffix("(/|$)")
    return f"{plain}/v1" if not set(plain) & set("()[]|?*+") else ""
