"""A deterministic tokenizer and chat template, so that every count can be predicted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Concatenated, the tokens of a text are the text: words of up to eight letters with
# the space before them, single punctuation marks, runs of other white space.
_TOKEN = re.compile(r"<\|im_start\|>|<\|im_end\|>| ?\w{1,8}| ?[^\w\s]|\s")


def split_tokens(text: str) -> list[str]:
    """The tokens of a text; joined, they are the text."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """How many tokens a text has."""
    return len(split_tokens(text))


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    template_arguments: Mapping[str, Any] | None = None,
) -> str:
    """The prompt as the model sees it: ChatML, tools in front."""
    parts = []
    if tools:
        listing = "\n".join(json.dumps(tool) for tool in tools)
        parts.append(f"<|im_start|>system\nTools:\n{listing}<|im_end|>\n")
    for message in messages:
        content = message.get("content") or ""
        calls = message.get("tool_calls")
        if calls:
            content += "\n" + json.dumps(calls)
        parts.append(f"<|im_start|>{message['role']}\n{content}<|im_end|>\n")
    parts.append("<|im_start|>assistant\n")
    if template_arguments and template_arguments.get("enable_thinking") is False:
        parts.append("<think>\n\n</think>\n\n")
    return "".join(parts)


def prompt_text(body: Mapping[str, Any]) -> str:
    """The rendered prompt of a chat completion's request body."""
    return render(
        body.get("messages") or (), body.get("tools") or (), body.get("chat_template_kwargs")
    )
