from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma import settings
from hma.errors import SettingsError
from hma.llm.profiles import PRESETS, derive_profile
from hma.llm.routes import Routes, load_routes
from hma.llm.settings import LlmSettings


def routes(**environ: str) -> Routes:
    return load_routes(settings.load(LlmSettings, environ), environ)


def table(tmp_path: Path, text: str, **environ: str) -> Routes:
    path = tmp_path / "routes.toml"
    path.write_text(text, encoding="utf-8")
    return routes(HMA_ROUTES_FILE=str(path), **environ)


def test_without_settings_two_routes_lead_to_the_embedded_server() -> None:
    made = routes()
    assert list(made) == ["fast", "reasoning"]
    assert made.default is made["fast"]
    assert made["fast"].base_url == "http://127.0.0.1:8090/v1"
    assert made["fast"].root_url == "http://127.0.0.1:8090"
    assert made["fast"].profile == PRESETS["smollm2"]
    assert [route.reasoning for route in made.values()] == [False, True]


def test_a_server_of_ones_own_gets_the_standard_profile() -> None:
    made = routes(HMA_LLM_BASE_URL="http://vllm:8000/v1/", HMA_LLM_MODEL="m", HMA_LLM_API_KEY="k")
    route = made.default
    assert (route.base_url, route.model, route.api_key.reveal()) == (
        "http://vllm:8000/v1",
        "m",
        "k",
    )
    assert route.profile == PRESETS["standard"]
    assert "k" not in repr(route.api_key)


def test_the_profile_can_be_picked() -> None:
    assert routes(HMA_LLM_PROFILE="standard").default.profile == PRESETS["standard"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HMA_LLM_BASE_URL", "my-vllm:8000"),
        ("HMA_LLM_PROFILE", "huge"),
        ("HMA_LLM_BACKOFF", "random"),
        ("HMA_LLM_TRIES", "0"),
        ("HMA_LLM_CONTEXT_TOKENS", "12"),
    ],
)
def test_a_wrong_setting_is_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        routes(**{variable: value})


def test_the_retry_policy_comes_from_the_settings() -> None:
    policy = routes(HMA_LLM_TRIES="5", HMA_LLM_BACKOFF="linear", HMA_LLM_BACKOFF_INITIAL="2s").retry
    assert (policy.tries, policy.backoff, policy.initial) == (5, "linear", 2.0)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_cost_prices_each_class(fresh: int, cached: int, completion: int) -> None:
    route = routes(
        HMA_LLM_PRICE_PROMPT="2", HMA_LLM_PRICE_CACHED_PROMPT="0.5", HMA_LLM_PRICE_COMPLETION="4"
    ).default
    cost = route.cost(prompt=fresh + cached, cached_prompt=cached, completion=completion)
    assert cost == pytest.approx((2 * fresh + 0.5 * cached + 4 * completion) / 1e6)


def test_a_file_gives_the_full_table(tmp_path: Path) -> None:
    made = table(
        tmp_path,
        """
        default = "big"
        [routes.small]
        base_url = "http://a:1/v1"
        model = "a"
        profile = "tuned"
        [routes.big]
        base_url = "http://b:2/v1/"
        model = "b"
        api_key_variable = "BIG_KEY"
        context_tokens = 32768
        reasoning = true
        priority = true
        prices = {prompt = 1.0, completion = 3}
        [profiles.tuned]
        base = "smollm2"
        max_batch = 2
        """,
        BIG_KEY="secret",
    )
    assert made.default.name == "big"
    assert made["big"].base_url == "http://b:2/v1"
    assert made["big"].api_key.reveal() == "secret"
    assert made["big"].prices.completion == 3
    assert made["big"].priority
    assert made["small"].profile.max_batch == 2
    assert not made["small"].profile.can_plan


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no \\[routes.NAME\\]"),
        ("x = ", "not valid TOML"),
        ("[routes.a]\nbase_url='u'\ncolour='red'", "unknown key colour"),
        ("[routes.a]\nprofile='huge'", "unknown profile 'huge'"),
        ("default='b'\n[routes.a]\nmodel='m'", "unknown route 'b'"),
        ("[routes.a]\napi_key_variable='NOPE'", "NOPE is not set"),
        ("[routes.a]\nmodel='m'\n[profiles.p]\nspeed=1", "no 'speed'"),
        ("[routes.a]\nprices={tip=1}", "tip"),
        ("[routes]\na = 3", "HMA_ROUTES_FILE"),
        ("[routes.a]\ncontext_tokens='many'", "context_tokens"),
        ("[routes.a]\nbase_url='vllm:8000'", "base_url"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        table(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*none\.toml"):
        routes(HMA_ROUTES_FILE=str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"base": "none"}, "unknown profile"),
        ({"retrieval": "page"}, "expected one of sentence"),
        ({"max_batch": True}, "expected int"),
        ({"max_batch": 0}, "too small"),
        ({"can_plan": 1}, "expected bool"),
    ],
)
def test_a_wrong_profile_is_refused(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        derive_profile(fields, PRESETS)


def test_an_unknown_route_is_a_key_error_and_none_is_the_default() -> None:
    made = routes()
    assert made.choose("") is made.default
    with pytest.raises(KeyError):
        made.choose("slow")
