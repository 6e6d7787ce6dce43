"""Which passages go into a prompt, within the room there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.worker.excerpts import find_excerpts, leading_excerpts
from tests.unit.worker.making import FACTS, items, source

TOPICS = ["copper", "granite", "barley", "herring", "linen", "amber", "salt", "timber"]
LONG = {
    f"d{n}": f"# About {topic}\n\n"
    + " ".join(
        f"Sentence {k} of the report on {topic} and its trade in harbour {k}." for k in range(60)
    )
    for n, topic in enumerate(TOPICS, 1)
}


async def test_source_that_fits_is_shown_whole_and_in_order() -> None:
    found = await find_excerpts(source(), items("At what does copper melt?"), "section", 1000)
    assert [excerpt.section_id for excerpt in found] == ["d1#0", "d1#1"]


async def test_each_item_gets_its_passage_before_any_gets_a_second() -> None:
    questions = items(*[f"Which harbour trades {topic}?" for topic in TOPICS])
    found = await find_excerpts(source(LONG), questions, "sentence", 420)
    assert {excerpt.document_id for excerpt in found} == set(LONG)


async def test_passage_that_is_too_long_is_replaced_by_finer_ones() -> None:
    found = await find_excerpts(source(LONG), items("Which harbour trades amber?"), "section", 200)
    assert found
    assert all("amber" in excerpt.text for excerpt in found)


@given(st.integers(0, 3000), st.integers(1, 8))
async def test_room_is_never_exceeded(room: int, count: int) -> None:
    questions = items(*[f"Which harbour trades {topic}?" for topic in TOPICS[:count]])
    read = source(LONG)
    for found in (
        await find_excerpts(read, questions, "section", room),
        leading_excerpts(read, room),
    ):
        assert sum(excerpt.tokens for excerpt in found) <= room


async def test_nothing_matches_nothing_is_shown() -> None:
    assert await find_excerpts(source(LONG), items("Xylophone?"), "sentence", 300) == []


def test_summary_sees_the_beginning_of_every_section() -> None:
    found = leading_excerpts(source(LONG), 1200)
    assert {excerpt.document_id for excerpt in found} == set(LONG)
    assert all(excerpt.text.startswith(("# About", "Sentence 0")) for excerpt in found)


def test_short_source_is_not_cut_for_a_summary() -> None:
    assert "".join(e.text for e in leading_excerpts(source(), 1000)).count("…") == 0
    assert FACTS.count("\n\n") == 3


def test_what_short_sections_leave_over_goes_to_the_long_ones() -> None:
    read = source({"d1": "# A\n\nShort.\n", "d2": "# B\n\n" + "Many words follow here. " * 200})
    shown = sum(excerpt.tokens for excerpt in leading_excerpts(read, 600))
    assert 550 < shown <= 600


def test_text_of_wide_characters_is_shown_as_far_as_it_fits() -> None:
    read = source({"d1": "# 磨坊\n\n" + "磨坊建于一七六四年。" * 300})
    shown = sum(excerpt.tokens for excerpt in leading_excerpts(read, 300))
    assert 250 < shown <= 300
