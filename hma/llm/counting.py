"""The size of a prompt before it is sent: exact from the server, or a safe bound."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx2

from hma.llm.base import Prompt, TokenCount
from hma.llm.routes import Route
from hma.llm.wire import template_arguments, wire_messages, wire_tools

_log = logging.getLogger(__name__)

# What chat templates add on their own: a default system message, dates, headers.
_TEMPLATE_TOKENS = 128
_MESSAGE_TOKENS = 16
_TOOLS_TOKENS = 512
_AWAY = (httpx2.ConnectError, httpx2.ConnectTimeout)


def byte_bound(prompt: Prompt) -> int:
    """Tokens that a normalized prompt has at most.

    A byte-level tokenizer makes no more tokens than the text has UTF-8 bytes; the
    template's own tokens are allowed for generously.
    """
    tokens = _TEMPLATE_TOKENS
    for message in wire_messages(prompt):
        text = json.dumps(message, ensure_ascii=False) if len(message) > 2 else message["content"]
        tokens += len(text.encode()) + _MESSAGE_TOKENS
    if prompt.tools:
        text = json.dumps(wire_tools(prompt), ensure_ascii=False, indent=1)
        tokens += len(text.encode()) + _TOOLS_TOKENS
    return tokens


async def count(
    http: httpx2.AsyncClient,
    route: Route,
    model: str,
    prompt: Prompt,
    *,
    think: bool,
    timeout: float,
) -> TokenCount:
    """The size of a normalized prompt, by the route's tokenizer.

    Falls back to the byte bound when the server does not say within `timeout`.

    Args:
        http: To ask with.
        route: Whose server counts.
        model: The model as the server names it.
        prompt: What will be sent, normalized.
        think: As it will be sent; templates write different text.
        timeout: Seconds.
    """
    bound = TokenCount(byte_bound(prompt), exact=False)
    if route.profile.tokenizer == "none":
        return bound
    body: dict[str, Any] = {"messages": wire_messages(prompt)}
    if prompt.tools:
        body["tools"] = wire_tools(prompt)
    arguments = template_arguments(route, think=think)
    if arguments:
        body["chat_template_kwargs"] = arguments
    try:
        async with asyncio.timeout(timeout):
            if route.profile.tokenizer == "vllm":
                tokens = await _count_vllm(http, route, {**body, "model": model})
            else:
                tokens = await _count_llama_cpp(http, route, body)
    except (httpx2.HTTPError, TimeoutError, ValueError, KeyError, TypeError) as error:
        _log.warning(
            "prompt not counted, its byte bound stands",
            extra={"route": route.name, "cause": type(error).__name__, "bound": bound.tokens},
        )
        return replace(bound, away=isinstance(error, _AWAY))
    return TokenCount(tokens, exact=True)


async def _count_vllm(http: httpx2.AsyncClient, route: Route, body: Mapping[str, Any]) -> int:
    answer = await _post(http, route, "/tokenize", {**body, "add_generation_prompt": True})
    return _positive(answer["count"])


async def _count_llama_cpp(http: httpx2.AsyncClient, route: Route, body: Mapping[str, Any]) -> int:
    rendered = await _post(http, route, "/apply-template", body)
    content = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
    answer = await _post(http, route, "/tokenize", content)
    return _positive(len(answer["tokens"]))


async def _post(
    http: httpx2.AsyncClient, route: Route, path: str, body: Mapping[str, Any]
) -> Mapping[str, Any]:
    key = route.api_key.reveal()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    response = await http.post(route.root_url + path, json=body, headers=headers)
    response.raise_for_status()
    answer = response.json()
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer


def _positive(tokens: Any) -> int:
    # Zero is what a server of another kind answers when it did not see the messages.
    if not isinstance(tokens, int) or tokens <= 0:
        raise ValueError("not a count")
    return tokens
