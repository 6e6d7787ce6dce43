"""Tools: what a model asks for is carried out within bounds, or refused in words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.llm.base import ToolCall
from services.worker.tools import MAX_CALLS, TOOLS, Toolbox, specs_of, unknown_tools
from tests.unit.worker.making import source

ALL = tuple(TOOLS)


async def answer(name: str, arguments: object, allowed: tuple[str, ...] = ALL) -> str:
    call = ToolCall("c1", name, arguments if isinstance(arguments, str) else json.dumps(arguments))
    ((_, result),) = await Toolbox(source(), allowed).run([call])
    return result


async def test_search_names_the_section_of_each_passage() -> None:
    assert "[d1#1]" in await answer("search_documents", {"query": "copper"})
    assert await answer("search_documents", {"query": "xylophone"}) == "nothing matches"


async def test_section_is_read_by_its_id() -> None:
    assert "Anna Hale" in await answer("read_section", {"section_id": "d1#0"})
    assert "d1#1" in await answer("read_section", {"section_id": "d7#0"}), "says what there is"


async def test_sum_is_computed_and_nonsense_explained() -> None:
    assert await answer("calculate", {"expression": "0.1 + 0.2"}) == "0.3"
    assert "cannot" in await answer("calculate", {"expression": "__import__('os')"})


async def test_tool_that_the_task_does_not_name_is_refused() -> None:
    assert "no tool" in await answer("read_section", {"section_id": "d1#0"}, ("calculate",))
    assert "no tool" in await answer("rm", {"path": "/"})


@pytest.mark.parametrize("arguments", ["", "{", "[]", "7", "null", '{"expression": 7}', "{}"])
async def test_arguments_that_do_not_fit_are_refused_in_words(arguments: str) -> None:
    assert "arguments" in await answer("calculate", arguments)


@given(st.sampled_from([*ALL, "other"]), st.text(max_size=100))
async def test_whatever_is_asked_the_answer_is_text_and_bounded(name: str, argument: str) -> None:
    key = next(iter(TOOLS[name].parameters["properties"])) if name in TOOLS else "x"
    assert 0 < len(await answer(name, {key: argument})) <= 2000


async def test_too_many_calls_in_a_round_are_not_carried_out() -> None:
    calls = [ToolCall(str(n), "calculate", '{"expression": "1+1"}') for n in range(MAX_CALLS + 3)]
    results = [result for _, result in await Toolbox(source(), ALL).run(calls)]
    assert results[:MAX_CALLS] == ["2"] * MAX_CALLS
    assert all("not carried out" in result for result in results[MAX_CALLS:])


def test_unknown_names_are_told_apart() -> None:
    assert unknown_tools(["calculate", "browse", "browse"]) == ["browse"]
    assert [spec.name for spec in specs_of(["calculate", "calculate"])] == ["calculate"]


@pytest.mark.parametrize(
    "arguments", ["[" * 100_000, "\ud800{\x00", '{"query": "\\ud800"}', '{"query": "\\u0000"}']
)
async def test_hostile_arguments_come_back_as_words_that_can_be_sent(arguments: str) -> None:
    call = ToolCall("1", "search_documents", arguments)
    ((shown, result),) = await Toolbox(source(), ALL).run([call])
    assert (shown + result).encode()
    assert "\x00" not in shown + result
