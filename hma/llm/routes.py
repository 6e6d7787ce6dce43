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
    [routes.fast.prices]                   # per million tokens
    prompt = 0.10
    cached_prompt = 0.01
    completion = 0.40

    [profiles.mine]                        # what differs from its base
    base = "standard"
    max_batch = 4
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hma.errors import SettingsError
from hma.llm.profiles import PRESETS, Profile, derive_profile
from hma.llm.settings import LlmSettings, RetryPolicy, url_fault
from hma.settings import Secret

FAST = "fast"
REASONING = "reasoning"
_NO_KEY = Secret("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money per million tokens; zero when tokens cost nothing.

    Attributes:
        prompt: Of prompt tokens that were not cached.
        cached_prompt: Of prompt tokens from the server's prefix cache.
        completion: Of completion tokens, reasoning included.
    """

    prompt: float = 0.0
    cached_prompt: float = 0.0
    completion: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to a model.

    Attributes:
        name: How plans, grants and the ledger call it.
        base_url: The OpenAI-compatible root, "/v1" included, no slash at the end.
        model: The model as the server names it; empty: the one that it serves.
        api_key: Bearer token; empty when the server wants none.
        prices: Money per million tokens.
        context_tokens: Most tokens, prompt and completion together.
        reasoning: Whether calls may think before they answer.
        priority: Whether the server takes `priority` (vLLM with the priority policy).
        profile: What the model and its server can do.
    """

    name: str
    base_url: str
    model: str
    profile: Profile
    api_key: Secret = _NO_KEY
    prices: Prices = Prices()
    context_tokens: int = 8192
    reasoning: bool = False
    priority: bool = False

    @property
    def root_url(self) -> str:
        """The server's root: where /health, /tokenize and /metrics are."""
        return self.base_url.removesuffix("/v1")

    @property
    def dearest(self) -> float:
        """Most money that one token can cost here; 0 when tokens cost nothing."""
        prices = self.prices
        return max(prices.prompt, prices.cached_prompt, prices.completion) / 1e6

    def cost(self, *, prompt: int, cached_prompt: int, completion: int) -> float:
        """Money for these tokens.

        Args:
            prompt: Prompt tokens, cached ones included.
            cached_prompt: The part of them that was cached.
            completion: Completion tokens.
        """
        prices = self.prices
        fresh = prompt - cached_prompt
        money = fresh * prices.prompt + cached_prompt * prices.cached_prompt
        return (money + completion * prices.completion) / 1e6


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
    fast = Route(
        name=FAST,
        base_url=settings.url,
        model=settings.model,
        profile=profile,
        api_key=settings.api_key,
        prices=Prices(
            prompt=settings.price_prompt,
            cached_prompt=settings.price_cached_prompt,
            completion=settings.price_completion,
        ),
        context_tokens=settings.context_tokens,
        priority=settings.priority,
    )
    reasoning = dataclasses.replace(fast, name=REASONING, reasoning=True)
    return Routes({FAST: fast, REASONING: reasoning}, FAST, settings.retry_policy)


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
    values["prices"] = Prices(**values.get("prices", {}))
    values["base_url"] = values["base_url"].rstrip("/")
    variable = values.pop("api_key_variable", "")
    if variable and variable not in environ:
        raise ValueError(f"routes.{name}: the environment variable {variable} is not set")
    values["api_key"] = Secret(environ[variable]) if variable else settings.api_key
    return Route(name=name, **values)


def _check_types(name: str, values: Mapping[str, Any]) -> None:
    kinds = {"model": str, "context_tokens": int, "reasoning": bool, "priority": bool}
    for key, kind in kinds.items():
        # type(), because True is an int to isinstance.
        if key in values and type(values[key]) is not kind:
            raise ValueError(f"routes.{name}.{key}: expected {kind.__name__}, got {values[key]!r}")
    fault = url_fault(values["base_url"])
    if fault:
        raise ValueError(f"routes.{name}.base_url: {fault}")
    if values.get("context_tokens", 256) < 256:
        raise ValueError(f"routes.{name}.context_tokens: expected 256 or more")
    for key, price in values.get("prices", {}).items():
        if type(price) not in (int, float) or not 0 <= price < float("inf"):
            raise ValueError(f"routes.{name}.prices.{key}: expected a price, got {price!r}")
