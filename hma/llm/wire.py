"""Prompts as the OpenAI-compatible API writes them, and answers back again."""

from __future__ import annotations

from typing import Any

from openai.types.chat import ChatCompletionChunk

from hma.llm.base import CallOptions, Chunk, Message, Prompt, ToolCall
from hma.llm.routes import Route
from hma.v1 import common_pb2

_INT32_MAX = 2**31 - 1


def wire_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The messages as JSON."""
    return [_message(message) for message in prompt.messages]


def wire_tools(prompt: Prompt) -> list[dict[str, Any]]:
    """The tools as JSON."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in prompt.tools
    ]


def template_arguments(route: Route, *, think: bool) -> dict[str, Any]:
    """Arguments of the chat template; the same for counting and for calling."""
    if not route.profile.thinking_switch:
        return {}
    return {"enable_thinking": think and route.reasoning}


def request_body(route: Route, model: str, prompt: Prompt, options: CallOptions) -> dict[str, Any]:
    """The request for a streamed chat completion, server-specific parts in `extra_body`."""
    profile = route.profile
    stream_options: dict[str, Any] = {"include_usage": True}
    extra: dict[str, Any] = {}
    if profile.chunk_usage == "continuous":
        stream_options["continuous_usage_stats"] = True
    elif profile.chunk_usage == "timings":
        extra["timings_per_token"] = True
    if route.priority:
        extra["priority"] = options.priority
    arguments = template_arguments(route, think=options.think)
    if arguments:
        extra["chat_template_kwargs"] = arguments
    if arguments.get("enable_thinking") and profile.honours_think_budget and options.think_tokens:
        extra["thinking_token_budget"] = options.think_tokens
    body: dict[str, Any] = {
        "model": model,
        "messages": wire_messages(prompt),
        "max_tokens": options.max_tokens,
        "temperature": prompt.temperature,
        "stream": True,
        "stream_options": stream_options,
        "extra_headers": dict(options.headers),
        "extra_body": extra,
    }
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.tools:
        body["tools"] = wire_tools(prompt)
    if prompt.schema is not None:
        schema = {"name": "answer", "schema": dict(prompt.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if profile.logprobs and not prompt.tools:  # llama.cpp refuses both together
        # llama.cpp sends twenty alternatives per token unless told otherwise.
        body |= {"logprobs": True, "top_logprobs": 1}
    return body


def parse_chunk(event: ChatCompletionChunk) -> Chunk:
    """What is new in one event of the stream.

    Raises:
        AttributeError, TypeError, ValueError: It has not the shape of a chunk.
    """
    usage = _usage(event)
    model = event.model or ""
    choices = event.choices or []
    if not choices:
        return Chunk(usage=usage, model=model)
    choice = choices[0]
    delta = choice.delta
    # vLLM says `reasoning`, llama.cpp and older vLLMs `reasoning_content`.
    thoughts = getattr(delta, "reasoning", None) or getattr(delta, "reasoning_content", None)
    tools = tuple(_tool_call(part) for part in delta.tool_calls or ())
    scored = choice.logprobs.content if choice.logprobs else None
    return Chunk(
        text=delta.content or "",
        reasoning=thoughts or "",
        usage=usage,
        logprobs=tuple(token.logprob for token in scored or ()),
        tool_calls=tools,
        finish_reason=choice.finish_reason or "",
        model=model,
    )


def _message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _tool_call(part: Any) -> tuple[int, ToolCall]:
    function = part.function
    name = (function.name or "") if function else ""
    arguments = (function.arguments or "") if function else ""
    return part.index or 0, ToolCall(part.id or "", name, arguments)


def _usage(event: ChatCompletionChunk) -> common_pb2.Usage | None:
    if event.usage is not None:
        usage = event.usage
        prompt_details = usage.prompt_tokens_details
        completion_details = usage.completion_tokens_details
        return common_pb2.Usage(
            prompt_tokens=_int32(usage.prompt_tokens),
            cached_prompt_tokens=_int32(prompt_details and prompt_details.cached_tokens),
            completion_tokens=_int32(usage.completion_tokens),
            reasoning_tokens=_int32(completion_details and completion_details.reasoning_tokens),
        )
    timings = getattr(event, "timings", None)
    if timings is None:
        return None
    cached = _int32(timings["cache_n"])
    return common_pb2.Usage(
        prompt_tokens=_int32(timings["prompt_n"]) + cached,
        cached_prompt_tokens=cached,
        completion_tokens=_int32(timings["predicted_n"]),
    )


def _int32(value: Any) -> int:
    return max(0, min(int(value or 0), _INT32_MAX))
