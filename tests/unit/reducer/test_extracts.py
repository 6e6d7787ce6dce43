"""Extracts stand in for answers."""

from __future__ import annotations

import asyncio

from hma.errors import NotFound
from hma.text.outline import outline
from hma.v1 import common_pb2, task_pb2
from services.reducer.extracts import extracts_from, find_extracts
from tests.unit.reducer.results import DOCUMENT, HANDBOOK, item

GONE = outline("d2", "gone.md", "text/markdown", "The moon is far.")


class Shelf:
    """Holds the handbook; everything else is gone."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay

    async def read(self, job_id: str, ref: task_pb2.DocumentRef) -> str:
        await asyncio.sleep(self.delay)
        if ref.document_id != "d1":
            raise NotFound("gone")
        return HANDBOOK


def test_an_extract_names_its_sentence_and_place() -> None:
    found = extracts_from([item("q1", "When does the shop open?")], [(DOCUMENT, HANDBOOK)])
    extract = found["q1"]
    assert extract.evidence == "The shop opens at nine."
    assert "nine" in extract.answer
    assert extract.section_id == "d1#0"
    assert extract.origin == common_pb2.ORIGIN_EXTRACT


def test_nothing_is_made_up_where_nothing_matches() -> None:
    assert extracts_from([item("q1", "Zebra?")], [(DOCUMENT, HANDBOOK)]) == {}


async def test_a_document_that_is_gone_costs_only_its_own_extracts() -> None:
    found = await find_extracts(
        [item("q1", "What does a ticket cost?"), item("q2", "Moon?")],
        [GONE, DOCUMENT],
        Shelf(),
        job_id="job",
        timeout=30,
    )
    assert list(found) == ["q1"]


async def test_extracts_end_with_their_time() -> None:
    assert (
        await find_extracts([item("q1")], [DOCUMENT], Shelf(30), job_id="job", timeout=0.05) == {}
    )
