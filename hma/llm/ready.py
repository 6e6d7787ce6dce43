"""Whether a route can be called now, in words that tell a user what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from hma.llm.base import Readiness
from hma.llm.counters import parse_waiting
from hma.llm.routes import Route

_TIMEOUT = 2.0
_KINDS = {"vllm": "vllm", "llamacpp": "llama.cpp"}
_DOWN = (httpx2.ConnectError, httpx2.ConnectTimeout)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server offers.

    Attributes:
        name: To ask for it.
        kind: "vllm", "llama.cpp"; empty when the server does not say.
        context_tokens: Its longest call; 0 when the server does not say.
    """

    name: str
    kind: str
    context_tokens: int


async def served_models(http: httpx2.AsyncClient, route: Route) -> list[ServedModel]:
    """The models that a route's server offers; empty when it does not say."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            response = await _get(http, route, f"{route.base_url}/models")
        return _parse_models(response) if response.status_code == 200 else []
    except (httpx2.HTTPError, TimeoutError, ValueError):
        return []


async def probe(http: httpx2.AsyncClient, route: Route) -> Readiness:
    """Asks the server for its health and its models.

    Args:
        http: To ask with.
        route: The route in question.
    """
    where = f"the model server at {route.base_url}"
    try:
        async with asyncio.timeout(_TIMEOUT):
            health = await _get(http, route, f"{route.root_url}/health")
            models = await _get(http, route, f"{route.base_url}/models")
    except _DOWN:
        return Readiness(
            False,
            f"Nothing answers at {route.base_url}: start the model server, "
            "or set HMA_LLM_BASE_URL to where it is.",
        )
    except TimeoutError:
        return Readiness(False, f"Waiting for {where}: no answer within {_TIMEOUT:g} s.")
    except httpx2.HTTPError:
        return Readiness(False, f"Waiting for {where}: the connection broke.")
    for response in (health, models):
        if response.status_code == 503:
            return Readiness(False, _unavailable(where, response))
    if models.status_code in (401, 403):
        return Readiness(
            False, f"{_capital(where)} refused the API key: set HMA_LLM_API_KEY to a valid one."
        )
    if models.status_code != 200:
        return Readiness(
            False,
            f"{_capital(where)} answers HTTP {models.status_code} to GET /models: "
            'check HMA_LLM_BASE_URL, which usually ends in "/v1".',
        )
    return _judge(route, where, models)


async def waiting(http: httpx2.AsyncClient, route: Route) -> int | None:
    """Requests that wait in the queue of a route's server; None when it does not say."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            response = await _get(http, route, f"{route.root_url}/metrics")
        return parse_waiting(response.text, route.model) if response.status_code == 200 else None
    except (httpx2.HTTPError, TimeoutError, ValueError):
        return None


def _judge(route: Route, where: str, response: httpx2.Response) -> Readiness:
    try:
        served = _parse_models(response)
    except ValueError:
        return Readiness(
            False, f"{_capital(where)} does not speak OpenAI's interface: check HMA_LLM_BASE_URL."
        )
    if not served:
        return Readiness(False, f"{_capital(where)} serves no model: load one.")
    # llama.cpp serves one model whatever it is asked for.
    matches = [m for m in served if route.model in ("", m.name) or m.kind == "llama.cpp"]
    if not matches:
        names = ", ".join(model.name for model in served[:8])
        return Readiness(
            False,
            f'{_capital(where)} does not serve "{route.model}"; it serves: {names}. '
            "Set HMA_LLM_MODEL to one of them.",
        )
    return Readiness(True, " ".join([f"{matches[0].name} is ready.", *_advice(route, matches[0])]))


def _advice(route: Route, model: ServedModel) -> Sequence[str]:
    """What works, but not as well as it could."""
    advice = []
    if 0 < model.context_tokens < route.context_tokens:
        advice.append(
            f"Its context is {model.context_tokens} tokens, less than the route's "
            f"{route.context_tokens}: set HMA_LLM_CONTEXT_TOKENS={model.context_tokens}."
        )
    tokenizer = route.profile.tokenizer
    if model.kind and tokenizer not in ("none", model.kind):
        advice.append(
            f"It runs on {model.kind}, but the route's profile counts tokens as {tokenizer} does: "
            "prompts are counted by their bytes until the profile says otherwise."
        )
    return advice


def _unavailable(where: str, response: httpx2.Response) -> str:
    if "loading" in response.text.lower():
        return f"{_capital(where)} is still loading its model; jobs wait until it is ready."
    return (
        f"{_capital(where)} answers 503: it is still loading, full, or its engine has died; "
        "jobs wait. See its log if this lasts."
    )


def _parse_models(response: httpx2.Response) -> list[ServedModel]:
    answer = response.json()
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise ValueError("no list of models")
    return [_parse_model(entry) for entry in data if isinstance(entry, dict) and entry.get("id")]


def _parse_model(entry: dict[str, Any]) -> ServedModel:
    meta = entry.get("meta")
    context = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else 0)
    return ServedModel(
        name=str(entry["id"]),
        kind=_KINDS.get(str(entry.get("owned_by")), ""),
        context_tokens=context if isinstance(context, int) else 0,
    )


async def _get(http: httpx2.AsyncClient, route: Route, url: str) -> httpx2.Response:
    key = route.api_key.reveal()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return await http.get(url, headers=headers)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
