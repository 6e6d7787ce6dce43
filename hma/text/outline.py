"""A document's sections: what can be known of it without reading it to a model.

Sections follow Markdown headings (ATX and setext, not inside code blocks) and are
cut further at blank lines, lines and sentences where they are long. A text without
headings is cut by size alone. The sections tile the document: joined in order they
are the document, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from hma.text.sentences import closes_fence, fence_mark, list_marker
from hma.text.splitting import split_to_fit
from hma.text.tokens import BYTES_PER_TOKEN, tokens_of_bytes, utf8_size
from hma.v1 import task_pb2

MAX_SECTION_TOKENS = 1_500
MAX_SECTIONS = 2_000
MAX_HEADING = 200
_LIMIT = MAX_SECTION_TOKENS * BYTES_PER_TOKEN
_MARKDOWN_NAMES = (".md", ".markdown", ".mdown", ".mkd", ".mdx", ".txt", ".text", ".rst")


@dataclass(frozen=True, slots=True)
class _Part:
    heading: str
    level: int
    text: str
    size: int


def outline(document_id: str, name: str, media_type: str, content: str) -> task_pb2.DocumentRef:
    """Describes a document without its content.

    Args:
        document_id: Id within the job, "d1".
        name: The name the client gave.
        media_type: MIME type as given; headings are looked for in Markdown, and in
            plain text unless the name says it is something else.
        content: The whole text.

    Returns:
        The reference, with sections in document order. An empty document has none.
    """
    encoded = content.encode()
    headed = _has_headings(name, media_type)
    parts = _coalesce(list(_cut(_headed(content) if headed else [("", 0, content)])))
    sections = []
    start = 0
    for number, part in enumerate(parts):
        sections.append(
            task_pb2.Section(
                section_id=f"{document_id}#{number}",
                heading=part.heading,
                level=part.level,
                start_byte=start,
                end_byte=start + part.size,
                approximate_tokens=tokens_of_bytes(part.size),
            )
        )
        start += part.size
    return task_pb2.DocumentRef(
        document_id=document_id,
        name=name,
        media_type=media_type,
        size_bytes=len(encoded),
        sha256=hashlib.sha256(encoded).hexdigest(),
        approximate_tokens=tokens_of_bytes(len(encoded)),
        sections=sections,
    )


def section_texts(document: task_pb2.DocumentRef, content: str) -> dict[str, str]:
    """The text of each section, by section id, in document order."""
    encoded = content.encode()
    return {
        section.section_id: encoded[section.start_byte : section.end_byte].decode(errors="ignore")
        for section in document.sections
    }


def _has_headings(name: str, media_type: str) -> bool:
    if "markdown" in media_type.lower():
        return True
    last = name.rsplit("/", 1)[-1].lower()
    return last.endswith(_MARKDOWN_NAMES) or "." not in last


def _headed(content: str) -> Iterator[tuple[str, int, str]]:
    """Yields (heading, level, text) for what lies under each heading, the line included."""
    lines = content.splitlines(keepends=True)
    heading, level, held = "", 0, [""]
    fence = ""
    number = _front_matter(lines)
    held = ["".join(lines[:number])]
    while number < len(lines):
        line = lines[number]
        taken = 1
        if fence:
            fence = "" if closes_fence(line, fence) else fence
        elif fence := fence_mark(line):
            pass
        elif found := _heading_at(lines, number):
            yield heading, level, "".join(held)
            heading, level, taken = found
            held = []
        held.extend(lines[number : number + taken])
        number += taken
    yield heading, level, "".join(held)


def _heading_at(lines: list[str], number: int) -> tuple[str, int, int] | None:
    """The heading that begins at a line: its words, its level, its number of lines."""
    line = lines[number]
    bare = line.strip()
    if not bare or len(line) - len(line.lstrip(" ")) > 3:
        return None
    words = bare.lstrip("#")
    level = len(bare) - len(words)
    if 1 <= level <= 6 and (not words or words[0] in " \t"):
        return _clean(words), level, 1
    if level or number + 1 == len(lines) or (number and lines[number - 1].strip()):
        return None
    underline = lines[number + 1].strip()
    if len(underline) < 2 or underline[0] not in "=-" or underline.strip(underline[0]):
        return None
    if bare[0] in "|>" or list_marker(line) or not any(c.isalnum() for c in bare):
        return None
    return _clean(bare), 1 if underline[0] == "=" else 2, 2


def _clean(words: str) -> str:
    bare = words.strip()
    closed = bare.rstrip("#")
    # Closing hashes count only after a space: "C#" is a word.
    if closed != bare and (not closed or closed[-1] in " \t"):
        bare = closed.rstrip()
    return " ".join(bare.split())[:MAX_HEADING]


def _front_matter(lines: list[str]) -> int:
    """How many lines of YAML front matter the document begins with."""
    if not lines or lines[0].rstrip() != "---":
        return 0
    for number, line in enumerate(lines[1:], 2):
        if line.rstrip() == "---":
            return number
    return 0


def _cut(headed: Iterator[tuple[str, int, str]] | list[tuple[str, int, str]]) -> Iterator[_Part]:
    for heading, level, text in headed:
        for piece in split_to_fit(text, _LIMIT):
            yield _Part(heading, level, piece, utf8_size(piece))


def _coalesce(parts: list[_Part]) -> list[_Part]:
    """Joins small neighbours when there are too many parts, each under its first heading."""
    if len(parts) <= MAX_SECTIONS:
        return parts
    joined: list[_Part] = []
    held: list[_Part] = []
    size = 0
    for part in [*parts, None]:
        if part is None or (held and size + part.size > _LIMIT):
            joined.append(
                _Part(held[0].heading, held[0].level, "".join(p.text for p in held), size)
            )
            held, size = [], 0
        if part is not None:
            held.append(part)
            size += part.size
    return joined
