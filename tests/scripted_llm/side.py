"""The endpoints beside chat completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.scripted_llm import tokenizer
from tests.scripted_llm.call import Call
from tests.scripted_llm.script import rules_of

if TYPE_CHECKING:
    from tests.scripted_llm.server import ScriptedLLM


def error_response(status: int, message: str, **headers: str) -> web.Response:
    kind = {400: "BadRequestError", 401: "Unauthorized", 404: "NotFoundError"}.get(
        status, "InternalServerError"
    )
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status, headers=headers)


class Side:
    """Answers everything but chat completions."""

    def __init__(self, server: ScriptedLLM) -> None:
        self._server = server

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def models(self, request: web.Request) -> web.Response:
        model: dict[str, Any] = {"id": self._server.model, "object": "model", "created": 1}
        if self._server.style == "vllm":
            model |= {"owned_by": "vllm", "max_model_len": self._server.context_tokens}
        else:
            model |= {"owned_by": "llamacpp", "meta": {"n_ctx": self._server.context_tokens}}
        return web.json_response({"object": "list", "data": [model]})

    async def props(self, request: web.Request) -> web.Response:
        if self._server.style == "vllm":
            return web.json_response({"version": "0.32.0"})
        settings = {"n_ctx": self._server.context_tokens}
        return web.json_response({"default_generation_settings": settings, "total_slots": 4})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._server.requests.append(("/tokenize", body))
        if "messages" in body:
            text = tokenizer.prompt_text(body)
        else:
            text = body.get("content", body.get("prompt", ""))
        tokens = list(range(tokenizer.count(text)))
        if self._server.style == "vllm":
            size = {
                "count": len(tokens),
                "max_model_len": self._server.context_tokens,
                "tokens": tokens,
            }
            return web.json_response(size)
        return web.json_response({"tokens": tokens})

    async def apply_template(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._server.requests.append(("/apply-template", body))
        return web.json_response({"prompt": tokenizer.prompt_text(body)})

    async def metrics(self, request: web.Request) -> web.Response:
        self._server.requests.append(("/metrics", None))
        queries = sum(call.prompt_tokens for call in self._server.calls)
        hits = sum(call.cached_tokens for call in self._server.calls)
        values = {
            "prompt_tokens_total": self._server.prompt_tokens,
            "prompt_tokens_cached_total": hits,
            "generation_tokens_total": self._server.completion_tokens,
            "prefix_cache_queries_total": queries,
            "prefix_cache_hits_total": hits,
            "num_requests_running": self._server.running - self._server.waiting,
            "num_requests_waiting": self._server.waiting,
        }
        labels = f'{{engine="0",model_name="{self._server.model}"}}'
        lines = [f"vllm:{name}{labels} {float(value)}" for name, value in values.items()]
        return web.Response(text="\n".join(lines) + "\n")

    async def set_script(self, request: web.Request) -> web.Response:
        rules = rules_of(await request.json())
        self._server.script = rules
        return web.json_response({"rules": len(rules)})

    async def list_calls(self, request: web.Request) -> web.Response:
        names = [name for name in Call.__dataclass_fields__ if name not in ("headers",)]
        calls = [{name: getattr(call, name) for name in names} for call in self._server.calls]
        return web.json_response({"calls": calls, "max_concurrency": self._server.max_concurrency})
