"""What a route's model and server can do: measured once per model, kept as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from hma.llm.calibration import Calibration

Tokenizer = Literal["vllm", "llama.cpp", "none"]
ChunkUsage = Literal["continuous", "timings", "final"]
RetrievalUnit = Literal["sentence", "paragraph", "section"]
AnswerStyle = Literal["json", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a model and its server can do.

    Attributes:
        can_plan: Writes a usable plan; else the structural plan is used.
        can_reduce: Writes prose over results better than code merges them.
        max_batch: Most items that one call answers well.
        retrieval: What a Worker gives the model to read per item.
        answer_style: Whether answers come as constrained JSON or as plain text.
        examples: Worked examples in front of a question.
        tokenizer: How prompts are counted: vLLM's /tokenize, llama.cpp's
            /apply-template and /tokenize, or not at all (the byte bound stands).
        chunk_usage: Which usage a stream carries: vLLM's on every chunk, llama.cpp's
            timings on every chunk, or the final one only.
        answer_tokens: Typical completion per item.
        prompt_tokens: Typical prompt per call.
        think_tokens: Typical reasoning per call on a route that reasons; 0: cannot.
        tools: Calls tools.
        honours_think_budget: The server enforces a thinking budget.
        logprobs: The server reports log-probabilities of what it generates.
        thinking_switch: The chat template knows `enable_thinking`.
        calibration: What the signals of a good answer are worth; unset: not measured.
    """

    can_plan: bool
    can_reduce: bool
    max_batch: int
    retrieval: RetrievalUnit
    answer_style: AnswerStyle
    examples: int
    tokenizer: Tokenizer
    chunk_usage: ChunkUsage
    answer_tokens: int
    prompt_tokens: int
    think_tokens: int = 0
    tools: bool = False
    honours_think_budget: bool = False
    logprobs: bool = False
    thinking_switch: bool = False
    calibration: Calibration | None = None


PRESETS: Mapping[str, Profile] = {
    # SmolLM2-135M on llama.cpp: figures measured on reading comprehension.
    "smollm2": Profile(
        can_plan=False,
        can_reduce=False,
        max_batch=1,
        retrieval="sentence",
        answer_style="plain",
        examples=3,
        tokenizer="llama.cpp",
        chunk_usage="timings",
        answer_tokens=24,
        prompt_tokens=180,
        logprobs=True,
    ),
    # A 30B-class mixture of experts on vLLM: judgement, to be replaced by a probe.
    "standard": Profile(
        can_plan=True,
        can_reduce=True,
        max_batch=8,
        retrieval="section",
        answer_style="json",
        examples=0,
        tokenizer="vllm",
        chunk_usage="continuous",
        answer_tokens=80,
        prompt_tokens=1500,
        think_tokens=1024,
        tools=True,
        logprobs=True,
        thinking_switch=True,
    ),
}


def derive_profile(fields: Mapping[str, Any], known: Mapping[str, Profile]) -> Profile:
    """A profile that differs from another one in some fields.

    Args:
        fields: The fields that differ, and `base`, the other's name ("standard").
        known: Profiles by name.

    Raises:
        ValueError: Unknown base or field, or a value of the wrong kind.
    """
    changes = dict(fields)
    if "calibration" in changes:
        changes["calibration"] = Calibration.from_table(changes["calibration"])
    base = changes.pop("base", "standard")
    if base not in known:
        raise ValueError(f"unknown profile {base!r}; have {', '.join(known)}")
    hints = get_type_hints(Profile)
    for name, value in changes.items():
        if name == "calibration":
            continue
        if name not in hints:
            raise ValueError(f"a profile has no {name!r}; it has {', '.join(hints)}")
        allowed = get_args(hints[name])
        if allowed and value not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
        # type(), because True is an int to isinstance.
        if not allowed and type(value) is not hints[name]:
            raise ValueError(f"{name}: expected {hints[name].__name__}, got {value!r}")
        if type(value) is int and value < (1 if name == "max_batch" else 0):
            raise ValueError(f"{name}: {value} is too small")
    return dataclasses.replace(known[base], **changes)
