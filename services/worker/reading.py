"""What a task reads: documents, their sections, and the passages that match a question.

Fetching and indexing cost no tokens but time, and the tasks of a job read the same
documents; so what was opened is kept, by content, within a bound of bytes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from hma.idle import IDLE, Idle
from hma.text.outline import section_texts
from hma.text.retrieval import Passages, Unit
from hma.text.tokens import approximate_tokens, utf8_size
from hma.v1 import task_pb2

Document = tuple[task_pb2.DocumentRef, str]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Words of a document, and where they stand.

    Attributes:
        document_id: The document.
        name: Its name, for people and models.
        section_id: The section.
        heading: The heading it stands under; may be empty.
        text: The words.
    """

    document_id: str
    name: str
    section_id: str
    heading: str
    text: str

    @property
    def tokens(self) -> int:
        """Estimated tokens in a prompt, the marks around it included."""
        return approximate_tokens(self.text) + approximate_tokens(self.name + self.heading) + 16


class Source:
    """The documents, or sections of them, that one task reads. Immutable but for its indexes.

    Args:
        documents: References with their contents.
        section_ids: Only these sections; empty means all.
    """

    def __init__(self, documents: Sequence[Document], section_ids: Sequence[str] = ()) -> None:
        self._documents = tuple(documents)
        self._section_ids = frozenset(section_ids)
        self._indexes: dict[Unit, Passages] = {}
        self._indexing = asyncio.Lock()

    @cached_property
    def sections(self) -> tuple[Excerpt, ...]:
        """Every section that may be read and is not blank, in document order."""
        return tuple(
            Excerpt(ref.document_id, ref.name, section_id, self._headings[section_id], text.strip())
            for ref, content in self._documents
            for section_id, text in section_texts(ref, content).items()
            if text.strip() and (not self._section_ids or section_id in self._section_ids)
        )

    @cached_property
    def tokens(self) -> int:
        """Estimated tokens of all of it."""
        return sum(section.tokens for section in self.sections)

    @cached_property
    def size_bytes(self) -> int:
        """What it keeps in memory, roughly: the contents."""
        return sum(utf8_size(content) for _, content in self._documents)

    async def best(self, query: str, k: int, unit: Unit) -> list[Excerpt]:
        """The `k` passages of size `unit` that match `query` best, best first."""
        index = await self._index(unit)
        return [
            Excerpt(
                passage.document_id,
                self._names[passage.document_id],
                passage.section_id,
                self._headings[passage.section_id],
                passage.text,
            )
            for passage in index.best(query, k)
        ]

    async def _index(self, unit: Unit) -> Passages:
        async with self._indexing:
            index = self._indexes.get(unit)
            if index is None:
                # In a thread: a large document must not hold up heartbeats.
                index = await asyncio.to_thread(
                    Passages.build, self._documents, unit, self._section_ids
                )
                self._indexes[unit] = index
            return index

    @cached_property
    def _names(self) -> dict[str, str]:
        return {ref.document_id: ref.name for ref, _ in self._documents}

    @cached_property
    def _headings(self) -> dict[str, str]:
        return {
            section.section_id: section.heading
            for ref, _ in self._documents
            for section in ref.sections
        }


class Reader(Protocol):
    """Where contents come from (`hma.rpc.documents.DocumentReader`)."""

    async def read(self, job_id: str, ref: task_pb2.DocumentRef) -> str:
        """The content of a document.

        Raises:
            hma.errors.HmaError: It is not there, or cannot be fetched now.
        """
        ...


class Library:
    """Opens sources and keeps the ones used last, until nobody has used them for long.

    Args:
        reader: Fetches contents.
        max_bytes: Most bytes of content to keep; the source opened last is not dropped for it.
        idle: How long a source is kept that nobody opens, in seconds.
    """

    def __init__(self, reader: Reader, max_bytes: int, idle: float = IDLE) -> None:
        self._idle = Idle[object]("sources", idle, self._drop)
        self._reader = reader
        self._max_bytes = max_bytes
        self._kept: OrderedDict[object, Source] = OrderedDict()

    async def open(
        self,
        job_id: str,
        documents: Sequence[task_pb2.DocumentRef],
        section_ids: Sequence[str] = (),
    ) -> Source:
        """The source made of these documents.

        Raises:
            hma.errors.HmaError: A document is not there, or cannot be fetched now.
        """
        key = (
            job_id,
            tuple((ref.document_id, ref.sha256) for ref in documents),
            tuple(sorted(section_ids)),
        )
        source = self._kept.get(key)
        if source is None:
            contents = [(ref, await self._reader.read(job_id, ref)) for ref in documents]
            # Another task of the job may have opened it meanwhile; one index is enough.
            source = self._kept.setdefault(key, Source(contents, section_ids))
        self._kept.move_to_end(key)
        self._idle.use(key)
        kept = sum(source.size_bytes for source in self._kept.values())
        while kept > self._max_bytes and len(self._kept) > 1:
            oldest, dropped = self._kept.popitem(last=False)
            self._idle.forget(oldest)
            kept -= dropped.size_bytes
        return source

    def _drop(self, key: object) -> None:
        del self._kept[key]
