"""What tokens cost: money per million tokens, configured, measured or looked up.

Three ways to a price, the first that applies:

1. Configured: money per million tokens.
2. For one's own GPUs: money per GPU-hour, and the throughput that was measured
   (`hma probe` prints it). With G GPUs at M an hour, and a server that reads or writes
   R tokens of a class per second when it does nothing else,

       money per million tokens of that class = G * M / 3600 / R * 1,000,000

   which is exact when the GPUs are always busy; idle hours come on top and no token
   pays for them.
3. Known hosted models: `hma.llm.hosted_prices`.

A price that is not known is not zero: `Prices.known` tells them apart, so a limit in
money is refused rather than ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

_MILLION = 1e6
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money per million tokens.

    Attributes:
        prompt: Of prompt tokens that were not cached.
        cached_prompt: Of prompt tokens from the server's prefix cache.
        completion: Of completion tokens, reasoning included.
        known: The prices are known; zero then means free. False: nobody said.
    """

    prompt: float = 0.0
    cached_prompt: float = 0.0
    completion: float = 0.0
    known: bool = True

    @property
    def dearest(self) -> float:
        """Most money that one token can cost; 0 when tokens cost nothing."""
        return max(self.prompt, self.cached_prompt, self.completion) / _MILLION

    @property
    def cheapest(self) -> float:
        """Least money that a token costs if it costs any; 0 when tokens cost nothing.

        What turns a budget in money into tokens: more than money / cheapest cannot be
        bought. Cached prompt tokens do not count, because none is known to be cached
        before its call; nor do classes that are free, for they set no limit.
        """
        paid = [price for price in (self.prompt, self.completion) if price > 0]
        return min(paid, default=0.0) / _MILLION

    def cost(self, *, prompt: int, cached_prompt: int, completion: int) -> float:
        """Money for these tokens.

        Args:
            prompt: Prompt tokens, cached ones included.
            cached_prompt: The part of them that was cached.
            completion: Completion tokens.
        """
        fresh = prompt - cached_prompt
        money = fresh * self.prompt + cached_prompt * self.cached_prompt
        return (money + completion * self.completion) / _MILLION

    def most_cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Most money that a call can cost, whatever of its prompt is cached.

        Args:
            prompt_tokens: Its prompt tokens.
            completion_tokens: Most completion tokens, reasoning included.
        """
        money = prompt_tokens * max(self.prompt, self.cached_prompt)
        return (money + completion_tokens * self.completion) / _MILLION


UNKNOWN = Prices(known=False)
"""Nobody said what tokens cost. Counts as free until money is limited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """A price as it is configured: per million tokens, or per GPU-hour.

    Attributes:
        prompt: Money per million prompt tokens.
        cached_prompt: Money per million cached prompt tokens; unset: as `prompt`.
        completion: Money per million completion tokens, reasoning included.
        gpu_hour: Money per GPU and hour, instead of the three above.
        gpus: GPUs that serve the model; unset: 1.
        prompt_tokens_per_second: Prompt tokens that they read per second, all together,
            when they do nothing else.
        cached_prompt_tokens_per_second: Cached prompt tokens per second; unset: as
            `prompt_tokens_per_second`. A cached token costs less than one that is read,
            but not nothing; as long as nobody has measured it, it is priced too high
            rather than too low.
        completion_tokens_per_second: Completion tokens that they write per second, all
            together, when they do nothing else.
    """

    prompt: float | None = None
    cached_prompt: float | None = None
    completion: float | None = None
    gpu_hour: float | None = None
    gpus: float | None = None
    prompt_tokens_per_second: float | None = None
    cached_prompt_tokens_per_second: float | None = None
    completion_tokens_per_second: float | None = None

    def resolve(self, name: Callable[[str], str]) -> Prices:
        """The prices that this table gives; `UNKNOWN` when it is empty.

        Args:
            name: What users call a key, for messages.

        Raises:
            ValueError: A value is wrong, a key is missing, or both ways are mixed.
        """
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {key: value for key, value in given.items() if value is not None}
        for key, value in given.items():
            # Negative, infinite or not a number.
            if not 0 <= value < math.inf:
                raise ValueError(f"{name(key)}: expected a number from 0, got {value!r}")
        per_token = [key for key in given if key in _PER_TOKEN]
        per_hour = [key for key in given if key not in _PER_TOKEN]
        if per_token and per_hour:
            raise ValueError(
                f"{name(per_hour[0])} and {name(per_token[0])} exclude each other: "
                "price tokens, or GPU-hours"
            )
        if per_token:
            return self._per_token(name)
        return self._per_hour(name) if per_hour else UNKNOWN

    def _per_token(self, name: Callable[[str], str]) -> Prices:
        prompt = _needed(self.prompt, "prompt", name)
        completion = _needed(self.completion, "completion", name)
        cached = prompt if self.cached_prompt is None else self.cached_prompt
        return Prices(prompt=prompt, cached_prompt=cached, completion=completion)

    def _per_hour(self, name: Callable[[str], str]) -> Prices:
        hour = _needed(self.gpu_hour, "gpu_hour", name)
        second = hour * (1.0 if self.gpus is None else self.gpus) / _SECONDS_PER_HOUR

        def price(key: str, given: float | None) -> float:
            rate = _needed(given, key, name)
            if rate <= 0:
                raise ValueError(f"{name(key)}: expected more than 0 tokens per second")
            return second / rate * _MILLION

        prompt = price("prompt_tokens_per_second", self.prompt_tokens_per_second)
        cached = self.cached_prompt_tokens_per_second
        return Prices(
            prompt=prompt,
            cached_prompt=(
                prompt if cached is None else price("cached_prompt_tokens_per_second", cached)
            ),
            completion=price("completion_tokens_per_second", self.completion_tokens_per_second),
        )


_PER_TOKEN = ("prompt", "cached_prompt", "completion")


def _needed(value: float | None, key: str, name: Callable[[str], str]) -> float:
    if value is None:
        raise ValueError(f"{name(key)}: is missing; set it too, to 0 if it costs nothing")
    return value
