"""Sources and the library that keeps them."""

from __future__ import annotations

import asyncio

from hma.text.outline import outline
from hma.v1 import task_pb2
from services.worker.reading import Library
from tests.unit.worker.making import FACTS, source


class Shelf:
    """Serves contents and counts."""

    def __init__(self, contents: dict[str, str]) -> None:
        self.contents = contents
        self.reads: list[str] = []

    async def read(self, job_id: str, ref: task_pb2.DocumentRef) -> str:
        self.reads.append(ref.document_id)
        await asyncio.sleep(0)
        return self.contents[ref.document_id]


def refs(contents: dict[str, str]) -> list[task_pb2.DocumentRef]:
    return [outline(key, f"{key}.md", "text/markdown", text) for key, text in contents.items()]


async def test_restriction_to_sections_holds_for_reading_and_for_search() -> None:
    read = source(section_ids=["d1#1"])
    assert [section.section_id for section in read.sections] == ["d1#1"]
    assert await read.best("When was the mill built?", 3, "sentence") == []
    assert (await read.best("copper", 3, "sentence"))[0].heading == "Metals"


async def test_same_documents_are_opened_once_also_when_tasks_start_together() -> None:
    contents = {"d1": FACTS, "d2": "Other words."}
    shelf = Shelf(contents)
    library = Library(shelf, 1 << 20)
    one, other = await asyncio.gather(*(library.open("job", refs(contents)) for _ in range(2)))
    assert one is other
    assert await library.open("job", refs(contents)) is one
    assert len(shelf.reads) <= 4, "together they may both fetch, afterwards nobody does"


async def test_documents_of_other_jobs_are_never_shared() -> None:
    contents = {"d1": FACTS}
    library = Library(Shelf(contents), 1 << 20)
    one = await library.open("job", refs(contents))
    assert await library.open("another", refs(contents)) is not one


async def test_sources_that_nobody_opens_any_more_do_not_stay_in_memory() -> None:
    shelf = Shelf({"d1": FACTS})
    library = Library(shelf, 1 << 20, idle=0.05)
    one = await library.open("job", refs(shelf.contents))
    assert await library.open("job", refs(shelf.contents)) is one
    async with asyncio.timeout(30):
        while library._kept:  # noqa: ASYNC110 - a timer's doing
            await asyncio.sleep(0.01)
    assert await library.open("job", refs(shelf.contents)) is not one


async def test_changed_content_is_another_source() -> None:
    shelf = Shelf({"d1": FACTS})
    library = Library(shelf, 1 << 20)
    one = await library.open("job", refs(shelf.contents))
    shelf.contents = {"d1": FACTS + "\nMore."}
    assert await library.open("job", refs(shelf.contents)) is not one


async def test_sources_used_longest_ago_are_dropped_beyond_the_bound() -> None:
    shelf = Shelf({f"d{n}": f"{n} " + "x" * 1000 for n in range(5)})
    library = Library(shelf, 2100)
    for name in ("d0", "d1", "d0", "d2", "d0", "d1"):
        await library.open("job", refs({name: shelf.contents[name]}))
    assert shelf.reads == ["d0", "d1", "d2", "d1"]
