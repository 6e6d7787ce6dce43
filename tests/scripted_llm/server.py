"""The scripted OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

from aiohttp import web

from hma.llm.routes import Routes, load_routes
from hma.llm.settings import LlmSettings
from tests.scripted_llm import schema as schemas
from tests.scripted_llm import tokenizer
from tests.scripted_llm.call import Call
from tests.scripted_llm.script import Reply, Rule, Script
from tests.scripted_llm.side import Side, error_response
from tests.scripted_llm.wire import Wire

_BLOCK = 16
_Rules = list[Rule | Reply] | Callable[[Any], Reply | None]


class ScriptedLLM:
    """An OpenAI-compatible server that says what its script tells it.

        async with ScriptedLLM([Rule(refuse(429, retry_after=1), nth=1)]) as llm:
            ...  # llm.base_url is "http://127.0.0.1:PORT/v1"
            assert llm.calls[0].status == 429

    A script is a list of `Rule`s and `Reply`s or a function from `Call` to `Reply` or
    None. The first rule that matches answers; a bare `Reply` answers one request;
    when nothing matches, the answer is a schema-valid value or a short text.

    To see an aborted call booked EXACT, give it a `token_delay` of 0.05: the client
    believes a count only if the server stops sooner than it makes a token.

    Args:
        script: What to say; may be changed at any time (`llm.script`).
        style: "vllm" or "llama.cpp": which dialect of errors and usage.
        model: The model it serves; requests for another one get a 404.
        api_key: Bearer token that /v1 wants; empty: none.
        context_tokens: Longer requests are refused as the style does it.
        token_delay: Seconds per token.
        first_delay: Seconds before each first token.
        chunk_tokens: Tokens per streamed chunk.
        slots: Requests that run at once, others wait; None: all.
        max_queued: With `slots`: more waiting ones get a 503.
        loading_for: Seconds after start during which all answers are 503.
        host, port: Where to listen; port 0: any free one.
        on_count: Told of a call whenever it has cost more tokens, before the client is.
    """

    def __init__(
        self,
        script: Script = (),
        *,
        style: str = "vllm",
        model: str = "scripted",
        api_key: str = "",
        context_tokens: int = 8192,
        token_delay: float = 0.0,
        first_delay: float = 0.0,
        chunk_tokens: int = 1,
        slots: int | None = None,
        max_queued: int | None = None,
        loading_for: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
        on_count: Callable[[Call], None] = lambda call: None,
    ) -> None:
        self.script: _Rules = script if callable(script) else list(script)
        self.style = style
        self.model = model
        self.api_key = api_key
        self.context_tokens = context_tokens
        self.token_delay = token_delay
        self.first_delay = first_delay
        self.chunk_tokens = chunk_tokens
        self.max_queued = max_queued
        self.calls: list[Call] = []
        self.requests: list[tuple[str, Any]] = []
        self.max_concurrency = 0
        self.fault: dict[str, int] = {}
        self.delay: dict[str, float] = {}
        self._slots = asyncio.Semaphore(slots) if slots else None
        self._loading_for = loading_for
        self._ready_at = 0.0
        self._host, self._port = host, port
        self.on_count = on_count
        self._runner: web.AppRunner | None = None
        self._running = 0
        self._waiting = 0
        self._blocks: set[str] = set()
        self._changed = asyncio.Condition()

    # -- life ---------------------------------------------------------------------

    async def __aenter__(self) -> ScriptedLLM:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Starts serving; again on the same port after `close`."""
        self._ready_at = time.monotonic() + self._loading_for
        side = Side(self)
        app = web.Application(client_max_size=64 << 20, middlewares=[self._gate])
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", side.models),
                web.get("/health", side.health),
                web.post("/tokenize", side.tokenize),
                web.post("/apply-template", side.apply_template),
                web.get("/metrics", side.metrics),
                web.get("/version" if self.style == "vllm" else "/props", side.props),
                web.post("/_script", side.set_script),
                web.get("/_calls", side.list_calls),
            ]
        )
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stops serving and breaks what runs."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def finish_loading(self) -> None:
        """Ends `loading_for` now."""
        self._ready_at = 0.0

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def root_url(self) -> str:
        """http://host:port."""
        return f"http://{self._host}:{self._port}"

    @property
    def base_url(self) -> str:
        """The OpenAI root."""
        return f"{self.root_url}/v1"

    def routes(self, **changes: Any) -> Routes:
        """The routes `fast` and `reasoning` of this server, with its dialect's profile.

        Args:
            changes: Fields of `LlmSettings` that differ.
        """
        routes = load_routes(LlmSettings(**{"base_url": self.base_url, **changes}))
        if self.style == "vllm":
            return routes
        dialect: Any = {"tokenizer": "llama.cpp", "chunk_usage": "timings"}
        changed = {
            name: replace(route, profile=replace(route.profile, **dialect))
            for name, route in routes.items()
        }
        return Routes(changed, routes.default.name)

    def environment(self) -> dict[str, str]:
        """Variables that point a service at this server."""
        return {
            "HMA_LLM_BASE_URL": self.base_url,
            "HMA_LLM_MODEL": self.model,
            "HMA_LLM_API_KEY": self.api_key,
            "HMA_LLM_CONTEXT_TOKENS": str(self.context_tokens),
        }

    # -- what tests look at ---------------------------------------------------------

    @property
    def prompt_tokens(self) -> int:
        """All prompt tokens that were counted."""
        return sum(call.prompt_tokens for call in self.calls)

    @property
    def completion_tokens(self) -> int:
        """All tokens that were generated, aborted calls included."""
        return sum(call.completion_tokens for call in self.calls)

    @property
    def total_tokens(self) -> int:
        """Everything that the server counted."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def running(self) -> int:
        """Calls in flight."""
        return self._running

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return self._waiting

    async def wait_until(
        self, condition: Callable[[ScriptedLLM], bool], timeout: float = 30.0
    ) -> None:
        """Waits until a condition over the server's state holds."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def wait_idle(self, timeout: float = 10.0) -> None:
        """Waits until no call is running."""
        await self.wait_until(lambda llm: llm.running == 0, timeout)

    # -- requests ---------------------------------------------------------------

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        path = request.path
        if path.startswith("/_"):
            return await handler(request)  # type: ignore[no-any-return]
        if time.monotonic() < self._ready_at:
            return error_response(503, "Loading model")
        if path in self.delay:
            await asyncio.sleep(self.delay[path])
        if path in self.fault:
            return error_response(self.fault[path], "scripted fault")
        key = request.headers.get("Authorization")
        if self.api_key and path.startswith("/v1") and key != f"Bearer {self.api_key}":
            return error_response(401, "Unauthorized")
        return await handler(request)  # type: ignore[no-any-return]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(len(self.calls) + 1, body, headers, tokenizer.prompt_text(body))
        self.calls.append(call)
        self._running += 1
        self.max_concurrency = max(self.max_concurrency, self._running)
        try:
            return await self._answer(request, call)
        except asyncio.CancelledError:
            call.state = "aborted"
            raise
        finally:
            self._running -= 1
            call.end = time.monotonic()
            await self._notify()

    async def _answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        reply = self._reply_for(call)
        await self._notify()
        refusal = self._refusal(call, reply)
        if refusal is not None:
            call.state, call.status = "refused", refusal.status
            return refusal
        if self._slots is None:
            return await self._generate(request, call, reply)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._generate(request, call, reply)
        finally:
            self._slots.release()

    def _reply_for(self, call: Call) -> Reply:
        script = self.script
        if callable(script):
            return script(call) or Reply()
        for entry in script:
            if isinstance(entry, Reply):
                script.remove(entry)
                return entry
            reply = entry.answer(call)
            if reply is not None:
                return reply
        return Reply()

    def _refusal(self, call: Call, reply: Reply) -> web.Response | None:
        if reply.status != 200:
            retry = reply.retry_after
            headers = {} if retry is None else {"Retry-After": str(retry)}
            return error_response(reply.status, reply.message, **headers)
        wanted = call.body.get("model")
        if self.style == "vllm" and wanted != self.model:
            return error_response(404, f"The model `{wanted}` does not exist.")
        size = tokenizer.count(call.prompt)
        limit = call.max_tokens if call.max_tokens < 1 << 20 else 0
        if size + limit > self.context_tokens:
            return self._too_long(size)
        full = self._slots is not None and self._slots.locked()
        if full and self.max_queued is not None and self._waiting >= self.max_queued:
            return error_response(503, "Too many queued requests")
        return None

    def _too_long(self, size: int) -> web.Response:
        if self.style == "vllm":
            message = (
                f"This model's maximum context length is {self.context_tokens} tokens. However, "
                f"your request has {size} input tokens. Please reduce the length."
            )
            return error_response(400, message)
        error = {
            "code": 400,
            "message": f"request ({size} tokens) exceeds the available context size",
            "type": "exceed_context_size_error",
        }
        return web.json_response({"error": error}, status=400)

    async def _generate(self, request: web.Request, call: Call, reply: Reply) -> web.StreamResponse:
        if reply.hang_after == 0:
            await asyncio.Event().wait()
        await asyncio.sleep(reply.first_delay or self.first_delay)
        call.prompt_tokens = tokenizer.count(call.prompt)
        call.cached_tokens = self._cache(call.prompt)
        self.on_count(call)
        wire = Wire(self, request, call, reply)
        if call.body.get("stream"):
            return await wire.stream(self._pieces(call, reply))
        return await wire.whole(self._pieces(call, reply))

    def _pieces(self, call: Call, reply: Reply) -> Iterator[tuple[str, str]]:
        """("reasoning" | "text", token) pairs, without end after a whitespace fault."""
        for token in tokenizer.split_tokens(reply.reasoning):
            yield "reasoning", token
        text = self._text(call, reply)
        for stop in call.body.get("stop") or ():
            text = text.split(stop, 1)[0]
        tokens = tokenizer.split_tokens(text)
        for number, token in enumerate(tokens):
            if reply.whitespace is not None and number >= reply.whitespace:
                break
            yield "text", token
        while reply.whitespace is not None:
            yield "text", "\n"

    def _text(self, call: Call, reply: Reply) -> str:
        shape = call.body.get("response_format") or {}
        if reply.tool_calls:
            text = ""
        elif reply.json is not None:
            text = json.dumps(reply.json)
        elif reply.text is not None:
            text = reply.text
        elif shape.get("type") == "json_schema":
            text = json.dumps(schemas.value_for(shape["json_schema"]["schema"], call.prompt))
        elif shape.get("type") == "json_object":
            text = "{}"
        else:
            text = "This is a scripted answer of ten short plain words."
        return text if reply.cut_at is None else text[: int(len(text) * reply.cut_at)]

    def _cache(self, prompt: str) -> int:
        """Tokens that hit the prefix cache, in whole blocks; the last token never does."""
        tokens = tokenizer.split_tokens(prompt)
        hits = 0
        missed = False
        for end in range(_BLOCK, len(tokens), _BLOCK):
            block = "".join(tokens[:end])
            missed = missed or block not in self._blocks
            hits = hits if missed else end
            self._blocks.add(block)
        return hits

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    notify = _notify
