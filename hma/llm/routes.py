"""Routes: where the models are, what they cost and what they can do.

The settings alone give two routes over one server: `fast` (thinking off) and
`reasoning` (thinking on). `HMA_ROUTES_FILE` names a TOML file with the full table:

    default = "fast"

    [routes.fast]
    base_url = "http://vllm:8000/v1"
    model = "Qwen/Qwen3-30B-A3B"
    api_key_variable = "VLLM_KEY"          # the environment variable that holds it
    context_tokens = 32768
    profile = "standard"                   # a preset, or one of [profiles.*]
    priority = true
    requests_per_minute = 500              # what a hosted provider takes; left out: any number
    tokens_per_minute = 200000
    [routes.fast.prices]                   # per million tokens
    prompt = 0.10
    cached_prompt = 0.01                   # left out: as `prompt`
    completion = 0.40

    [profiles.mine]                        # what differs from its base
    base = "standard"
    max_batch = 4

Instead of money per million tokens, the prices of one's own GPUs are money per hour and the
throughput that `hma probe` measures (`hma.llm.prices` has the formula):

    [routes.fast.prices]
    gpu_hour = 0.35                        # per GPU
    gpus = 2
    prompt_tokens_per_second = 5200        # of all of them together
    completion_tokens_per_second = 1400

A route without prices to a known hosted model has that model's (`hma.llm.hosted_prices`);
any other has none, and a job that limits money is refused there. `hma probe` also writes
[profiles.NAME], the calibration of its signals of quality included.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hma.errors import SettingsError
from hma.llm.hosted_prices import hosted_prices
from hma.llm.prices import UNKNOWN, Prices, PriceTable
from hma.llm.profiles import PRESETS, Profile, derive_profile
from hma.llm.settings import LlmSettings, RetryPolicy, url_fault
from hma.settings import Secret

FAST = "fast"
REASONING = "reasoning"
_NO_KEY = Secret("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to a model.

    Attributes:
        name: How plans, grants and the ledger call it.
        base_url: The OpenAI-compatible root, "/v1" included, no slash at the end.
        model: The model as the server names it; empty: the one that it serves.
        api_key: Bearer token; empty when the server wants none.
        prices: Money per million tokens; else what a known hosted model costs.
        context_tokens: Most tokens, prompt and completion together.
        reasoning: Whether calls may think before they answer.
        priority: Whether the server takes `priority` (vLLM with the priority policy).
        profile: What the model and its server can do.
        requests_per_minute: Calls that the server takes in any 60 seconds; 0: any number.
        tokens_per_minute: Tokens, prompt and completion, in any 60 seconds; 0: any number.
    """

    name: str
    base_url: str
    model: str
    profile: Profile
    api_key: Secret = _NO_KEY
    prices: Prices = UNKNOWN
    context_tokens: int = 8192
    reasoning: bool = False
    priority: bool = False
    requests_per_minute: int = 0
    tokens_per_minute: int = 0

    @property
    def limited(self) -> bool:
        """Whether the server's windows limit calls: each then needs room in them."""
        return bool(self.requests_per_minute or self.tokens_per_minute)

    @property
    def root_url(self) -> str:
        """The server's root: where /health, /tokenize and /metrics are."""
        return self.base_url.removesuffix("/v1")

    @property
    def priced(self) -> bool:
        """Whether it is known what tokens cost here; true when they are free, too."""
        return self.prices.known

    @property
    def dearest(self) -> float:
        """Most money that one token can cost here; 0 when tokens cost nothing."""
        return self.prices.dearest

    @property
    def cheapest(self) -> float:
        """Least money for which a token can be had here; see `Prices.cheapest`."""
        return self.prices.cheapest

    def cost(self, *, prompt: int, cached_prompt: int, completion: int) -> float:
        """Money for these tokens; `cached_prompt` is a part of `prompt`."""
        return self.prices.cost(prompt=prompt, cached_prompt=cached_prompt, completion=completion)

    def most_cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Most money that a call can cost, whatever of its prompt is cached."""
        return self.prices.most_cost(prompt_tokens, completion_tokens)


class Routes(Mapping[str, Route]):
    """All routes by name.

    Attributes:
        default: The route to use when none is asked for.
        retry: How often and how fast failed calls are tried again.
    """

    def __init__(
        self, routes: Mapping[str, Route], default: str, retry: RetryPolicy | None = None
    ) -> None:
        self._routes = dict(routes)
        self.default = self._routes[default]
        self.retry = retry or RetryPolicy()

    def __getitem__(self, name: str) -> Route:
        return self._routes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)

    @property
    def dearest(self) -> float:
        """Most money that one token can cost on any of them; 0 when tokens cost nothing."""
        return max(route.dearest for route in self._routes.values())

    def choose(self, name: str) -> Route:
        """The route called `name`; the default one for an empty name.

        Raises:
            KeyError: There is no such route.
        """
        return self._routes[name] if name else self.default


def load_routes(settings: LlmSettings, environ: Mapping[str, str] | None = None) -> Routes:
    """The routes that the settings describe.

    Args:
        settings: Of the LLM layer.
        environ: Where the routes file's `api_key_variable`s are looked up.

    Raises:
        SettingsError: The routes file is missing or wrong, or a profile is unknown.
    """
    if settings.routes_file:
        return _routes_from_file(Path(settings.routes_file), settings, environ or {})
    profile = _preset(settings.profile or ("standard" if settings.base_url else "smollm2"))
    fast = _priced(
        Route(
            name=FAST,
            base_url=settings.url,
            model=settings.model,
            profile=profile,
            api_key=settings.api_key,
            prices=_configured_prices(settings),
            context_tokens=settings.context_tokens,
            priority=settings.priority,
        )
    )
    reasoning = dataclasses.replace(fast, name=REASONING, reasoning=True)
    return Routes({FAST: fast, REASONING: reasoning}, FAST, settings.retry_policy)


def _configured_prices(settings: LlmSettings) -> Prices:
    table = PriceTable(
        prompt=settings.price_prompt,
        cached_prompt=settings.price_cached_prompt,
        completion=settings.price_completion,
        gpu_hour=settings.price_gpu_hour,
        gpus=settings.price_gpus,
        prompt_tokens_per_second=settings.price_prompt_tokens_per_second,
        cached_prompt_tokens_per_second=settings.price_cached_prompt_tokens_per_second,
        completion_tokens_per_second=settings.price_completion_tokens_per_second,
    )
    try:
        return table.resolve(lambda key: f"HMA_LLM_PRICE_{key.upper()}")
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _priced(route: Route) -> Route:
    """The route with the price of its hosted model, unless prices are configured."""
    if route.priced:
        return route
    prices = hosted_prices(route.base_url, route.model, datetime.now(UTC).date())
    return route if prices is None else dataclasses.replace(route, prices=prices)


def _preset(name: str) -> Profile:
    try:
        return PRESETS[name]
    except KeyError:
        known = ", ".join(PRESETS)
        raise SettingsError(f"HMA_LLM_PROFILE: expected one of {known}, got {name!r}") from None


def _routes_from_file(path: Path, settings: LlmSettings, environ: Mapping[str, str]) -> Routes:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"HMA_ROUTES_FILE: cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise SettingsError(f"HMA_ROUTES_FILE: {path} is not valid TOML: {error}") from None
    try:
        return _parse_table(table, settings, environ)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"HMA_ROUTES_FILE: {path}: {error}") from None


def _parse_table(
    table: Mapping[str, Any], settings: LlmSettings, environ: Mapping[str, str]
) -> Routes:
    profiles = dict(PRESETS)
    for name, fields in table.get("profiles", {}).items():
        profiles[name] = derive_profile(fields, profiles)
    routes = {
        name: _parse_route(name, fields, profiles, settings, environ)
        for name, fields in table.get("routes", {}).items()
    }
    if not routes:
        raise ValueError("there is no [routes.NAME] table")
    default = table.get("default", next(iter(routes)))
    if default not in routes:
        raise ValueError(f"default names the unknown route {default!r}")
    return Routes(routes, default, settings.retry_policy)


def _parse_route(
    name: str,
    fields: Mapping[str, Any],
    profiles: Mapping[str, Profile],
    settings: LlmSettings,
    environ: Mapping[str, str],
) -> Route:
    known = {field.name for field in dataclasses.fields(Route)} - {"name", "api_key"}
    unknown = set(fields) - known - {"api_key_variable"}
    if unknown:
        raise ValueError(f"routes.{name}: unknown key {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {"model": settings.model, **fields}
    profile = values.get("profile", "standard")
    if profile not in profiles:
        raise ValueError(f"routes.{name}: unknown profile {profile!r}; have {', '.join(profiles)}")
    values.setdefault("base_url", settings.url)
    _check_types(name, values)
    values["profile"] = profiles[profile]
    values["prices"] = _parse_prices(name, values.get("prices", {}))
    values["base_url"] = values["base_url"].rstrip("/")
    variable = values.pop("api_key_variable", "")
    if variable and variable not in environ:
        raise ValueError(f"routes.{name}: the environment variable {variable} is not set")
    values["api_key"] = Secret(environ[variable]) if variable else settings.api_key
    return _priced(Route(name=name, **values))


def _parse_prices(name: str, table: Mapping[str, Any]) -> Prices:
    known = [field.name for field in dataclasses.fields(PriceTable)]
    for key, price in table.items():
        if key not in known:
            raise ValueError(f"routes.{name}.prices: unknown key {key}; have {', '.join(known)}")
        # type(), because True is an int to isinstance.
        if type(price) not in (int, float):
            raise ValueError(f"routes.{name}.prices.{key}: expected a number, got {price!r}")
    return PriceTable(**table).resolve(lambda key: f"routes.{name}.prices.{key}")


def _check_types(name: str, values: Mapping[str, Any]) -> None:
    kinds = {"model": str, "context_tokens": int, "reasoning": bool, "priority": bool}
    kinds |= {"requests_per_minute": int, "tokens_per_minute": int}
    for key, kind in kinds.items():
        # type(), because True is an int to isinstance.
        if key in values and type(values[key]) is not kind:
            raise ValueError(f"routes.{name}.{key}: expected {kind.__name__}, got {values[key]!r}")
    fault = url_fault(values["base_url"])
    if fault:
        raise ValueError(f"routes.{name}.base_url: {fault}")
    if values.get("context_tokens", 256) < 256:
        raise ValueError(f"routes.{name}.context_tokens: expected 256 or more")
    for key in ("requests_per_minute", "tokens_per_minute"):
        if values.get(key, 0) < 0:
            raise ValueError(f"routes.{name}.{key}: expected 0 or more")
