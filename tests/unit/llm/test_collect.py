from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.llm.base import Chunk, ToolCall
from hma.llm.collect import Collector
from hma.v1 import common_pb2


def collect(*chunks: Chunk, constrained: bool = True) -> Collector:
    collector = Collector(constrained=constrained)
    for chunk in chunks:
        collector.add(chunk)
    return collector


parts_of_text = st.sampled_from(
    ["", " ", "\n\n\n", " " * 11, "\n" * 31, " " * 90, "a", "b  ", "  c"]
)


@given(st.lists(parts_of_text, max_size=12), st.booleans())
def test_running_away_is_trailing_white_space_however_it_is_chunked(
    parts: list[str], constrained: bool
) -> None:
    collector = collect(*(Chunk(text=part) for part in parts), constrained=constrained)
    text = "".join(parts)
    assert collector.text == text
    blank = len(text) - len(text.rstrip())
    assert collector.runaway == (blank >= (32 if constrained else 256))


def test_the_latest_usage_model_and_reason_stand() -> None:
    collector = collect(
        Chunk(model="m", usage=common_pb2.Usage(prompt_tokens=3)),
        Chunk(text="a", usage=common_pb2.Usage(prompt_tokens=3, completion_tokens=1)),
        Chunk(finish_reason="stop"),
    )
    assert collector.usage == common_pb2.Usage(prompt_tokens=3, completion_tokens=1)
    assert (collector.model, collector.finish_reason) == ("m", "stop")


def test_the_mean_logprob_is_over_tokens_not_chunks() -> None:
    collector = collect(Chunk(logprobs=(-1.0,)), Chunk(logprobs=(-2.0, -3.0)))
    assert collector.mean_logprob == pytest.approx(-2.0)
    assert collect(Chunk(text="a")).mean_logprob == 0.0


def test_tool_calls_are_put_together_by_index() -> None:
    collector = collect(
        Chunk(tool_calls=((1, ToolCall("b", "two", "")),)),
        Chunk(tool_calls=((0, ToolCall("a", "one", '{"x"')),)),
        Chunk(tool_calls=((0, ToolCall("", "", ": 1}")), (1, ToolCall("", "", "{}")))),
    )
    assert collector.tool_calls == (ToolCall("a", "one", '{"x": 1}'), ToolCall("b", "two", "{}"))


def test_nothing_is_empty_until_something_was_generated() -> None:
    assert collect(Chunk(model="m", usage=common_pb2.Usage(prompt_tokens=1))).empty
    assert not collect(Chunk(reasoning="hm")).empty
    assert not collect(Chunk(text=" ")).empty
