"""The inference server's own counters, to compare the ledger with.

Every server counts what it has processed since it was started:

- vLLM: `vllm:prompt_tokens_total` holds cached tokens too; those are
  `vllm:prompt_tokens_cached_total`, in older releases `vllm:prefix_cache_hits_total`.
- llama.cpp (with `--metrics`): `llamacpp:prompt_tokens_total` leaves cached tokens out;
  they are `llamacpp:prompt_tokens_cached_total`, which older releases do not have. Then
  only the prompt tokens that were not cached can be compared.
"""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from hma.errors import InvalidRequest, PreconditionFailed, Unavailable

TIMEOUT = 3.0
"""Seconds that a server may take to answer."""

_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class ServerCounters:
    """What a server has counted since it was started.

    Attributes:
        prompt: Prompt tokens, cached ones included unless `fresh_only`.
        cached: The part of them that was cached; None when the server does not say.
        completion: Completion tokens.
        running: Requests at work or waiting; None when the server does not say.
        fresh_only: `prompt` leaves cached tokens out, and how many they are is not known.
    """

    prompt: int
    cached: int | None
    completion: int
    running: int | None = None
    fresh_only: bool = False

    @property
    def total(self) -> int:
        """Prompt and completion."""
        return self.prompt + self.completion

    def since(self, before: ServerCounters) -> ServerCounters | None:
        """What was counted after `before`; None when the server was restarted since."""
        cached = None
        if self.cached is not None and before.cached is not None:
            cached = self.cached - before.cached
        prompt, completion = self.prompt - before.prompt, self.completion - before.completion
        if min(prompt, completion, cached or 0) < 0:
            return None
        return ServerCounters(prompt, cached, completion, self.running, self.fresh_only)


def read_counters(url: str, *, model: str = "", api_key: str = "") -> ServerCounters:
    """Asks a server for its counters.

    Args:
        url: Its root or its OpenAI root: "/v1" at the end is left out.
        model: Only of this model; empty: of all.
        api_key: Sent as bearer token; vLLM wants none here.

    Raises:
        InvalidRequest: `url` is not an http URL.
        Unavailable: It does not answer.
        PreconditionFailed: It has no counters.
    """
    root = url.rstrip("/").removesuffix("/v1")
    if urlsplit(root).scheme not in ("http", "https"):
        raise InvalidRequest.field("llm", f"expected an http URL, got {url!r}")
    request = urllib.request.Request(f"{root}/metrics")  # noqa: S310 - http(s) only
    if api_key:
        request.add_unredirected_header("Authorization", f"Bearer {api_key}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:  # noqa: S310
            text = reply.read(_MAX_BYTES).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        hint = "; start llama.cpp's server with --metrics" if error.code == 501 else ""
        raise _without_counters(f"{root}/metrics answers {error.code}{hint}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Unavailable(f"{root} does not answer: {reason}", reason="UNREACHABLE") from None
    try:
        return parse_counters(text, model)
    except (ValueError, OverflowError):
        raise _without_counters(
            f"{root}/metrics has no token counters{f' of model {model}' if model else ''}"
        ) from None


def parse_counters(text: str, model: str = "") -> ServerCounters:
    """Reads counters from a page of Prometheus text, summed over engines and models.

    Args:
        text: The page.
        model: Only samples labelled with this model, or with none; empty: all.

    Raises:
        ValueError, OverflowError: It is no such page, or neither vLLM's nor llama.cpp's.
    """
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if model and sample.labels.get("model_name", model) != model:
                continue
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    if "vllm:prompt_tokens_total" in sums:
        return _vllm(sums)
    if "llamacpp:prompt_tokens_total" in sums:
        return _llama_cpp(sums)
    raise ValueError("no token counters")


def parse_waiting(text: str, model: str = "") -> int | None:
    """Requests that wait in a server's queue; None when its page does not say.

    Args:
        text: A page of Prometheus text, vLLM's or llama.cpp's.
        model: Only samples labelled with this model, or with none; empty: all.

    Raises:
        ValueError: It is no such page.
    """
    found: list[float] = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in ("vllm:num_requests_waiting", "llamacpp:requests_deferred")
        and (not model or sample.labels.get("model_name", model) == model)
    ]
    return int(sum(found)) if found and all(map(math.isfinite, found)) else None


def _vllm(sums: Mapping[str, float]) -> ServerCounters:
    cached = sums.get("vllm:prompt_tokens_cached_total", sums.get("vllm:prefix_cache_hits_total"))
    return ServerCounters(
        prompt=int(sums["vllm:prompt_tokens_total"]),
        cached=None if cached is None else int(cached),
        completion=int(sums.get("vllm:generation_tokens_total", 0)),
        running=_sum(sums, "vllm:num_requests_running", "vllm:num_requests_waiting"),
    )


def _llama_cpp(sums: Mapping[str, float]) -> ServerCounters:
    fresh = int(sums["llamacpp:prompt_tokens_total"])
    cached = sums.get("llamacpp:prompt_tokens_cached_total")
    return ServerCounters(
        prompt=fresh + int(cached or 0),
        cached=None if cached is None else int(cached),
        completion=int(sums.get("llamacpp:tokens_predicted_total", 0)),
        running=_sum(sums, "llamacpp:requests_processing", "llamacpp:requests_deferred"),
        fresh_only=cached is None,
    )


def _sum(sums: Mapping[str, float], *names: str) -> int | None:
    found = [sums[name] for name in names if name in sums]
    return int(sum(found)) if found else None


def _without_counters(message: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"{message}: the ledger cannot be compared with it", reason="NO_COUNTERS"
    )
