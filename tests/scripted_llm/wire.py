"""How a scripted reply goes over HTTP: streamed or whole, with usage and faults."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.scripted_llm import tokenizer
from tests.scripted_llm.script import Reply

if TYPE_CHECKING:
    from tests.scripted_llm.call import Call
    from tests.scripted_llm.server import ScriptedLLM


class Wire:
    """Sends one reply."""

    def __init__(self, server: ScriptedLLM, request: web.Request, call: Call, reply: Reply) -> None:
        self._server, self._request = server, request
        self._call, self._reply = call, reply
        body = call.body
        options = body.get("stream_options") or {}
        self._include_usage = bool(options.get("include_usage")) or server.style == "llama.cpp"
        self._every_chunk = bool(options.get("continuous_usage_stats")) and server.style == "vllm"
        self._timings = bool(body.get("timings_per_token")) and server.style == "llama.cpp"
        delay = reply.token_delay
        self._delay = server.token_delay if delay is None else delay
        self._step = reply.chunk_tokens or server.chunk_tokens
        self._id = f"chatcmpl-{call.number}"
        self._tool_text = [json.dumps(arguments) for _, arguments in reply.tool_calls]

    # -- whole ------------------------------------------------------------------------

    async def whole(self, pieces: Iterator[tuple[str, str]]) -> web.StreamResponse:
        """Answers without streaming."""
        thoughts: list[str] = []
        finish = "stop"
        for kind, token in pieces:
            if self._call.completion_tokens >= self._call.max_tokens:
                finish = "length"
                break
            await self._pace(1)
            self._count(kind, token)
            if kind == "reasoning":
                thoughts.append(token)
            if self._call.completion_tokens == self._reply.disconnect_after:
                return self._break()
        message: dict[str, Any] = {"role": "assistant", "content": self._call.text}
        if thoughts:
            message["reasoning"] = "".join(thoughts)
        if self._reply.tool_calls:
            self._count_tools()
            finish = "tool_calls"
            message["tool_calls"] = [self._tool(index) for index in range(len(self._tool_text))]
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": self._reply.finish_reason or finish,
        }
        self._call.state = "done"
        answer = self._frame([choice], kind="chat.completion")
        return web.json_response({**answer, "usage": self._usage()})

    # -- streamed ---------------------------------------------------------------------

    async def stream(self, pieces: Iterator[tuple[str, str]]) -> web.StreamResponse:
        """Answers with server-sent events."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        # A break or a cut must end the connection, not the response only.
        response.force_close()
        await response.prepare(self._request)
        await self._chunk(response, {"role": "assistant", "content": ""})
        try:
            finish = await self._tokens(response, pieces)
        except ConnectionError:
            # The client left; a token counts only when it went out.
            self._call.state = "aborted"
            return response
        if not finish:
            return self._break()
        await self._end(response, finish)
        self._call.state = "done"
        return response

    async def _tokens(self, response: web.StreamResponse, pieces: Iterator[tuple[str, str]]) -> str:
        call = self._call
        batch: list[str] = []
        last = ""
        for kind, token in pieces:
            if batch and (len(batch) >= self._step or kind != last):
                await self._send(response, last, batch)
                batch = []
                fault = await self._fault(response)
                if fault:
                    return ""
            if call.completion_tokens + len(batch) >= call.max_tokens:
                if batch:
                    await self._send(response, last, batch)
                return "length"
            batch.append(token)
            last = kind
        if batch:
            await self._send(response, last, batch)
            if await self._fault(response):
                return ""
        if self._reply.tool_calls:
            return await self._send_tools(response)
        return "stop"

    async def _send(self, response: web.StreamResponse, kind: str, batch: list[str]) -> None:
        await self._pace(len(batch))
        self._check_open()
        for token in batch:
            self._count(kind, token)
        delta = {"content" if kind == "text" else "reasoning": "".join(batch)}
        await self._chunk(response, delta, tokens=batch)
        await self._server.notify()

    async def _send_tools(self, response: web.StreamResponse) -> str:
        await self._pace(1)
        self._check_open()
        self._count_tools()
        for index in range(len(self._tool_text)):
            tool = self._tool(index)
            arguments = tool["function"].pop("arguments")
            head = {**tool, "index": index, "function": {**tool["function"], "arguments": ""}}
            await self._chunk(response, {"tool_calls": [head]})
            part = {"index": index, "function": {"arguments": arguments}}
            await self._chunk(response, {"tool_calls": [part]})
        return "tool_calls"

    async def _fault(self, response: web.StreamResponse) -> bool:
        """Commits the scripted fault if its moment has come; True ends the stream."""
        done, reply = self._call.completion_tokens, self._reply
        if reply.hang_after is not None and done >= reply.hang_after:
            await asyncio.Event().wait()
        if reply.broken_chunk_after is not None and done >= reply.broken_chunk_after:
            await response.write(b'data: {"choices": [{"delta": \n\n')
            return True
        if reply.error_after is not None and done >= reply.error_after:
            error = {"message": "scripted", "type": "InternalServerError", "code": 500}
            await response.write(f"data: {json.dumps({'error': error})}\n\n".encode())
            return True
        return reply.disconnect_after is not None and done >= reply.disconnect_after

    async def _end(self, response: web.StreamResponse, finish: str) -> None:
        await self._chunk(response, {}, finish=self._reply.finish_reason or finish)
        if self._include_usage and self._reply.usage != "none":
            frame = {**self._frame([]), "usage": self._usage()}
            if self._timings:
                frame["timings"] = self._timing()
            await response.write(f"data: {json.dumps(frame)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()

    async def _chunk(
        self,
        response: web.StreamResponse,
        delta: dict[str, Any],
        *,
        tokens: list[str] | None = None,
        finish: str | None = None,
    ) -> None:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        if tokens and self._call.body.get("logprobs"):
            choice["logprobs"] = {
                "content": [
                    {"token": t, "logprob": self._reply.logprob, "bytes": None, "top_logprobs": []}
                    for t in tokens
                ]
            }
        frame = self._frame([choice])
        if self._every_chunk and self._reply.usage != "none":
            frame["usage"] = self._usage()
        if self._timings and self._call.completion_tokens:
            frame["timings"] = self._timing()
        await response.write(f"data: {json.dumps(frame)}\n\n".encode())

    # -- counting ---------------------------------------------------------------------

    def _count(self, kind: str, token: str) -> None:
        self._call.completion_tokens += 1
        if kind == "reasoning":
            self._call.reasoning_tokens += 1
        else:
            self._call.text += token
        self._server.on_count(self._call)

    def _count_tools(self) -> None:
        for (name, _), arguments in zip(self._reply.tool_calls, self._tool_text, strict=True):
            size = tokenizer.count(name) + tokenizer.count(arguments)
            room = self._call.max_tokens - self._call.completion_tokens
            self._call.completion_tokens += min(size, room)
        self._server.on_count(self._call)

    def _usage(self) -> dict[str, Any]:
        call = self._call
        prompt = call.prompt_tokens + (7 if self._reply.usage == "wrong" else 0)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": call.completion_tokens,
            "total_tokens": prompt + call.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": call.cached_tokens},
        }

    def _timing(self) -> dict[str, Any]:
        call = self._call
        fresh = call.prompt_tokens - call.cached_tokens
        return {
            "prompt_n": fresh,
            "cache_n": call.cached_tokens,
            "predicted_n": call.completion_tokens,
        }

    # -- the connection ---------------------------------------------------------------

    async def _pace(self, tokens: int) -> None:
        # Always yields, so that a client's leaving is seen between tokens.
        slow = self._call.completion_tokens + tokens - self._reply.slow_from
        await asyncio.sleep(self._delay * min(max(slow, 0), tokens))

    def _check_open(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError

    def _break(self) -> web.StreamResponse:
        """Breaks the connection as a crashed server does."""
        self._call.state = "broken"
        transport = self._request.transport
        if transport is not None:
            transport.close()
        return web.Response()

    def _tool(self, index: int) -> dict[str, Any]:
        name, _ = self._reply.tool_calls[index]
        function = {"name": name, "arguments": self._tool_text[index]}
        return {"id": f"call-{self._call.number}-{index}", "type": "function", "function": function}

    def _frame(self, choices: list[Any], kind: str = "chat.completion.chunk") -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": int(time.time()),
            "model": self._server.model,
            "choices": choices,
        }
