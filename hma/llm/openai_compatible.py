"""The provider for vLLM, llama.cpp and other servers with OpenAI's HTTP interface."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import openai

from hma.llm import counting, ready
from hma.llm.base import CallOptions, ChunkStream, Prompt, Readiness, TokenCount
from hma.llm.failures import classify
from hma.llm.routes import Route
from hma.llm.servers import open_http
from hma.llm.settings import LlmSettings
from hma.llm.stream import OpenAIStream
from hma.llm.wire import request_body

_log = logging.getLogger(__name__)


class OpenAICompatible:
    """Calls models over OpenAI's HTTP interface. One per process; close it.

    It never retries: `BudgetedLLM` owns that, because a retry costs tokens.

    Args:
        settings: Timeouts.
    """

    def __init__(self, settings: LlmSettings) -> None:
        self._settings = settings
        self._http = open_http(settings)
        self._models: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def count_tokens(self, route: Route, prompt: Prompt, *, think: bool) -> TokenCount:
        """The size of a normalized prompt; see `hma.llm.counting`."""
        model = await self._model(route)
        timeout = self._settings.count_timeout
        return await counting.count(self._http, route, model, prompt, think=think, timeout=timeout)

    @asynccontextmanager
    async def stream(
        self, route: Route, prompt: Prompt, options: CallOptions
    ) -> AsyncIterator[ChunkStream]:
        """Runs a normalized prompt; see `hma.llm.base.LLM.stream`."""
        body = request_body(route, await self._model(route), prompt, options)
        client = openai.AsyncOpenAI(
            base_url=route.base_url,
            # The library insists on a key; servers without one ignore it.
            api_key=route.api_key.reveal() or "none",
            max_retries=0,
            http_client=self._http,
            timeout=self._http.timeout,
        )
        try:
            events = await client.chat.completions.create(**body)
        except (openai.OpenAIError, ValueError) as error:
            # Users get our words; the server's own are for whoever reads the log.
            _log.warning(
                "the model server did not take a call",
                extra={"route": route.name, "cause": str(error)[:500]},
            )
            raise classify(error, opened=False) from error
        stream = OpenAIStream(
            events,
            stall_timeout=self._settings.stall_timeout,
            stop_timeout=self._settings.stop_timeout,
            counts_every_token=route.profile.chunk_usage == "continuous",
        )
        try:
            yield stream
        finally:
            await stream.aclose()

    async def readiness(self, route: Route) -> Readiness:
        """Whether the route can be called; see `hma.llm.ready`."""
        return await ready.probe(self._http, route)

    async def waiting(self, route: Route) -> int | None:
        """Requests that wait at the route's server; see `hma.llm.ready`."""
        return await ready.waiting(self._http, route)

    async def _model(self, route: Route) -> str:
        """The model to name: the configured one, else the first that is served."""
        if route.model:
            return route.model
        if route.base_url not in self._models:
            served = await ready.served_models(self._http, route)
            if not served:
                return ""
            self._models[route.base_url] = served[0].name
        return self._models[route.base_url]
