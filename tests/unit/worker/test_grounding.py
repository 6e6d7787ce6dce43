"""Answers and the words of the source that carry them."""

from __future__ import annotations

from hma.v1 import common_pb2
from services.worker.grounding import extract, ground
from services.worker.structured import Draft
from tests.unit.worker.making import items, source

SECTIONS = source().sections
MILLS = "The mill on the Erne was built in 1764."


def test_answer_in_the_source_is_grounded_with_the_sentence_as_evidence() -> None:
    answer = ground(Draft("q1", "anna  hale"), SECTIONS, -0.2)
    assert answer.grounded
    assert (answer.section_id, answer.evidence) == ("d1#0", "Anna Hale paid for it.")
    assert answer.origin == common_pb2.ORIGIN_MODEL
    assert answer.mean_logprob == -0.2


def test_quote_is_given_in_the_words_of_the_source() -> None:
    answer = ground(Draft("q1", "1764", MILLS.upper()), SECTIONS, 0)
    assert answer.evidence.rstrip(".") == MILLS.rstrip(".")


def test_answer_stands_where_its_quote_stands() -> None:
    twice = source({"d1": "# A\n\nIron is magnetic.\n\n# B\n\nIron melts late.\n"}).sections
    answer = ground(Draft("q1", "iron", "Iron melts late."), twice, 0)
    assert answer.section_id == "d1#1"


def test_invented_quote_is_dropped() -> None:
    answer = ground(Draft("q1", "1764", "The mill was built by giants in 1764."), SECTIONS, 0)
    assert answer.evidence == MILLS
    assert answer.grounded


def test_answer_with_a_true_quote_that_lacks_it_is_not_grounded_but_cites_it() -> None:
    answer = ground(Draft("q1", "262 years old", MILLS), SECTIONS, 0)
    assert not answer.grounded
    assert answer.section_id == "d1#0"


def test_answer_without_a_source_stays_what_it_is() -> None:
    answer = ground(Draft("q1", "a purple elephant"), SECTIONS, 0)
    assert (answer.grounded, answer.evidence, answer.section_id) == (False, "", "")
    assert answer.answer == "a purple elephant"


async def test_extract_is_labelled_and_quotes_its_sentence() -> None:
    found = await extract(items("At what does copper melt?")[0], source())
    assert found is not None
    assert found.origin == common_pb2.ORIGIN_EXTRACT
    assert found.evidence == "Copper melts at 1,085 degrees."
    assert "1,085" in found.answer


async def test_nothing_is_extracted_when_nothing_matches() -> None:
    assert await extract(items("Xylophone?")[0], source()) is None
