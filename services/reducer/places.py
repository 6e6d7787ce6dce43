"""Where answers stand: names for sections, and the list of sources."""

from __future__ import annotations

from collections.abc import Iterable

from hma.v1 import task_pb2

MAX_QUOTE = 500


class Places:
    """Knows the documents' names and headings."""

    def __init__(self, documents: Iterable[task_pb2.DocumentRef]) -> None:
        self._names: dict[str, str] = {}
        self._headings: dict[str, str] = {}
        for document in documents:
            self._names[document.document_id] = document.name or document.document_id
            for section in document.sections:
                self._headings[section.section_id] = section.heading

    def label(self, section_id: str) -> str:
        """For people: "handbook.md, Opening hours"; empty when the place is not known."""
        name = self._names.get(_document_of(section_id), "")
        heading = self._headings.get(section_id, "")
        return f"{name}, {heading}" if name and heading else name

    def sources(self, answers: Iterable[task_pb2.ItemAnswer]) -> list[task_pb2.Source]:
        """What answers stand on, each place and quote once, in order of the answers."""
        found: dict[tuple[str, str], task_pb2.Source] = {}
        for answer in answers:
            if not answer.section_id and not answer.evidence:
                continue
            quote = " ".join(answer.evidence.split())[:MAX_QUOTE]
            document_id = _document_of(answer.section_id)
            found.setdefault(
                (answer.section_id, quote),
                task_pb2.Source(
                    document_id=document_id,
                    name=self._names.get(document_id, ""),
                    section_id=answer.section_id,
                    quote=quote,
                ),
            )
        return list(found.values())


def _document_of(section_id: str) -> str:
    return section_id.partition("#")[0]
