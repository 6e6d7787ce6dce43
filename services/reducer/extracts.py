"""Stands in for answers that no model gave: the best sentence, labelled as such."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from hma.errors import HmaError
from hma.text.grounding import extract_answer, find_verbatim
from hma.text.retrieval import Passages
from hma.v1 import common_pb2, task_pb2

_log = logging.getLogger(__name__)


class Reader(Protocol):
    """Reads documents (`hma.rpc.documents.DocumentReader`)."""

    async def read(self, job_id: str, ref: task_pb2.DocumentRef) -> str:
        """The content of a document."""
        ...


async def find_extracts(
    items: Sequence[task_pb2.Item],
    documents: Sequence[task_pb2.DocumentRef],
    reader: Reader,
    *,
    job_id: str,
    timeout: float,
) -> dict[str, task_pb2.ItemAnswer]:
    """Extracts by item id; what cannot be read or found in time is left out.

    Args:
        items: What to look for.
        documents: Where.
        reader: Fetches them.
        job_id: Whose they are.
        timeout: Seconds for all of it.
    """
    try:
        async with asyncio.timeout(timeout):
            contents = await _read(documents, reader, job_id)
            return await asyncio.to_thread(extracts_from, items, contents)
    except TimeoutError:
        _log.warning("no time was left to look for extracts")
        return {}


def extracts_from(
    items: Sequence[task_pb2.Item], contents: Sequence[tuple[task_pb2.DocumentRef, str]]
) -> dict[str, task_pb2.ItemAnswer]:
    """The best sentence for each item, less the words that the item already holds."""
    passages = Passages.build(contents, "sentence")
    found: dict[str, task_pb2.ItemAnswer] = {}
    for item in items:
        for passage in passages.best(item.text):
            answer = extract_answer(item.text, passage.text)
            found[item.item_id] = task_pb2.ItemAnswer(
                item_id=item.item_id,
                answer=answer,
                evidence=passage.text,
                section_id=passage.section_id,
                grounded=find_verbatim(answer, passage.text) is not None,
                origin=common_pb2.ORIGIN_EXTRACT,
            )
    return found


async def _read(
    documents: Sequence[task_pb2.DocumentRef], reader: Reader, job_id: str
) -> list[tuple[task_pb2.DocumentRef, str]]:
    contents = []
    for document in documents:
        try:
            contents.append((document, await reader.read(job_id, document)))
        except HmaError as error:
            # One that cannot be read must not cost the extracts from the others.
            _log.warning(
                "a document could not be read",
                extra={"document_id": document.document_id, "why": error.message},
            )
    return contents
