"""BM25 over the passages of a job's documents: retrieval that costs no tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import bm25s
import numpy as np

from hma.text.outline import section_texts
from hma.text.sentences import Span, paragraph_spans, passage_spans
from hma.text.splitting import split_to_fit
from hma.v1 import task_pb2

Unit = Literal["sentence", "paragraph", "section"]
MAX_PASSAGE = 4_000
"""Longest passage in bytes, sections excepted; longer ones are cut."""

# A CJK character is a word of its own, as there are no spaces to find words by.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
_COMMON_TEXT = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
_COMMON = frozenset(_COMMON_TEXT.split())


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that matches a query.

    Attributes:
        section_id: The section it stands in.
        document_id: The document it stands in.
        text: Its words, white space collapsed.
        score: BM25; above 0, comparable within one `Passages` only.
    """

    section_id: str
    document_id: str
    text: str
    score: float


class Passages:
    """An index of passages. Build once, ask often; immutable, deterministic."""

    def __init__(self, passages: list[Passage]) -> None:
        self._passages = passages
        self._index: bm25s.BM25 | None = None
        corpus = [_words(passage.text) for passage in passages]
        if any(corpus):
            self._index = bm25s.BM25()
            self._index.index(corpus, show_progress=False)

    @classmethod
    def build(
        cls,
        documents: Iterable[tuple[task_pb2.DocumentRef, str]],
        unit: Unit = "sentence",
        section_ids: Collection[str] = (),
    ) -> Passages:
        """Indexes documents. Blocking: about a second for 10 MiB; use a thread.

        Args:
            documents: Each reference with its content.
            unit: Size of a passage.
            section_ids: Only these sections; empty means all.
        """
        found: list[Passage] = []
        wanted = frozenset(section_ids)
        for document, content in documents:
            for section_id, text in section_texts(document, content).items():
                if not wanted or section_id in wanted:
                    found.extend(
                        Passage(section_id, document.document_id, words, 0.0)
                        for words in _passages(text, unit)
                    )
        return cls(found)

    def __len__(self) -> int:
        return len(self._passages)

    def best(self, query: str, k: int = 1) -> list[Passage]:
        """The `k` passages that match best, best first; fewer when fewer match at all."""
        words = _words(query)
        if self._index is None or not words or k < 1:
            return []
        scores = self._index.get_scores(words)
        # Stable: of equal scores the earlier passage wins.
        order = np.argsort(-scores, kind="stable")[:k]
        return [
            Passage(found.section_id, found.document_id, found.text, float(scores[index]))
            for index in order
            if scores[index] > 0.0
            for found in (self._passages[index],)
        ]


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if word not in _COMMON]


def _passages(text: str, unit: Unit) -> Iterator[str]:
    if unit == "section":
        spans = [Span(0, len(text))]
    else:
        spans = passage_spans(text) if unit == "sentence" else paragraph_spans(text)
    for span in spans:
        words = " ".join(span.of(text).split())
        if unit == "section" or len(words) * 4 <= MAX_PASSAGE:
            if words:
                yield words
        else:
            yield from (piece.strip() for piece in split_to_fit(words, MAX_PASSAGE))
