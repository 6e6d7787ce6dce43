"""Prices of hosted models, from the data that the library `genai-prices` comes with.

Nothing is ever fetched: the prices are those of the installed version, which
constraints.txt pins; to renew them, raise it. They are list prices in US dollars. Where
a model has several prices (a long prompt, a time of day, a later date, the first
time that a prompt enters the cache), the dearest one that can apply from today on counts,
so that a limit in money holds. Discounts are not known here: configure prices then.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hma.llm.prices import Prices

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

# A prompt that enters a provider's cache costs more with some of them, unasked.
_PROMPT = ("input_mtok", "cache_write_mtok")
_CACHED = ("cache_read_mtok",)
_COMPLETION = ("output_mtok", "output_reasoning_mtok")
# Charged beside the tokens: what these cost is no price of a token.
_NOT_PER_TOKEN = ("requests_kcount", "input_text_messages_kcount", "output_citation_mtok")


def hosted_prices(base_url: str, model: str, today: date) -> Prices | None:
    """What a hosted model costs; None when that is not known.

    Args:
        base_url: The route's root.
        model: The model as the provider names it.
        today: Prices that were replaced before this day do not count.
    """
    if not model or not _is_public(base_url):
        return None
    # Imported here, for it is large and most routes lead to one's own server.
    from genai_prices.data import providers

    provider = next((each for each in providers if _serves(each, base_url)), None)
    found = provider and provider.find_model(model, all_providers=providers)
    return _dearest(list(_applicable(found, today))) if found else None


def _is_public(base_url: str) -> bool:
    """Whether a provider can be behind a URL: HTTPS and a name with a domain."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return parts.scheme == "https" and "." in host
    return False


def _serves(provider: Provider, base_url: str) -> bool:
    found = re.match(provider.api_pattern, base_url)
    if found is None:
        return False
    # "https://api.provider.com.elsewhere.org" is somebody else.
    return found[0].endswith("/") or base_url[found.end() :][:1] in ("", "/", ":", "?")


def _applicable(model: ModelInfo, today: date) -> Iterator[ModelPrice]:
    """The prices that can apply today or later; the last one that is active counts."""
    from genai_prices.types import ModelPrice, StartDateConstraint

    if isinstance(model.prices, ModelPrice):
        yield model.prices
        return
    for entry in reversed(model.prices):
        yield entry.prices
        limit = entry.constraint
        if limit is None or (isinstance(limit, StartDateConstraint) and limit.start_date <= today):
            return


def _dearest(prices: list[ModelPrice]) -> Prices | None:
    if any(_most(price, (key,)) for price in prices for key in _NOT_PER_TOKEN):
        return None
    prompts = [_most(price, _PROMPT) for price in prices]
    completions = [_most(price, _COMPLETION) for price in prices]
    if not prices or None in prompts or None in completions:
        return None
    prompt = max(filter(None, prompts), default=0.0)
    # A provider without a price for cached tokens charges them like others.
    cached = [_most(price, _CACHED) for price in prices]
    return Prices(
        prompt=prompt,
        cached_prompt=max(prompt if each is None else each for each in cached),
        completion=max(filter(None, completions), default=0.0),
    )


def _most(price: ModelPrice, keys: tuple[str, ...]) -> float | None:
    """The dearest tier of any of the keys; None when none of them has a price."""
    from genai_prices.types import TieredPrices

    found: list[float] = []
    for key in keys:
        value = getattr(price, key)
        if isinstance(value, TieredPrices):
            found += [float(value.base), *(float(tier.price) for tier in value.tiers)]
        elif value is not None:
            found.append(float(value))
    return max(found, default=None)
