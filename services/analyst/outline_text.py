"""The documents' outline as the model sees it: ids, names, headings, token counts."""

from __future__ import annotations

from dataclasses import dataclass

from hma.text.inert import unmarked
from hma.v1 import task_pb2
from services.analyst.wording import line

MAX_DOCUMENTS = 100
MAX_SECTIONS = 120
_MAX_NAME = 80
_MAX_HEADING = 60


@dataclass(frozen=True, slots=True)
class OutlineText:
    """An outline, bounded.

    Attributes:
        text: One line per document or section.
        ids: Ids of the documents and sections that are shown, in order.
    """

    text: str
    ids: tuple[str, ...]


def outline_text(documents: tuple[task_pb2.DocumentRef, ...]) -> OutlineText:
    """Shows all documents up to `MAX_DOCUMENTS`, and sections while there is room.

    Names and headings come from strangers: they are cut to a line each, and stand in
    quotes that they cannot close.
    """
    shown = documents[:MAX_DOCUMENTS]
    # Each document gets the same share, so that a long first one hides no other.
    share = MAX_SECTIONS // max(1, len(shown))
    rows: list[str] = []
    ids: list[str] = []
    for document in shown:
        name = unmarked(line(document.name, _MAX_NAME)) or "(no name)"
        rows.append(f"{document.document_id} {name!r} ~{document.approximate_tokens} tokens")
        ids.append(document.document_id)
        if len(document.sections) < 2:
            continue
        for section in document.sections[:share]:
            heading = unmarked(line(section.heading, _MAX_HEADING))
            words = repr(heading) if heading else "(no heading)"
            rows.append(f"  {section.section_id} {words} ~{section.approximate_tokens}")
            ids.append(section.section_id)
        if len(document.sections) > share:
            rows.append(f"  … {len(document.sections) - share} more sections of this document")
    if len(documents) > len(shown):
        rows.append(f"… {len(documents) - len(shown)} more documents")
    return OutlineText("\n".join(rows), tuple(ids))
