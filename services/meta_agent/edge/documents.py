"""Documents as clients send them: rules, decoding, and the names plans know them by."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from hma.rpc.validation import Violations
from hma.text.tokens import utf8_size
from hma.text.unseen import UNSEEN, find_mark_flood, normalized
from hma.v1 import job_pb2, task_pb2
from services.meta_agent.edge.limits import MAX_NAME_CHARS, Limits
from services.meta_agent.edge.plan_validation import mark_fault
from services.meta_agent.edge.quoting import quote

MAX_MEDIA_TYPE_CHARS = 127
MAX_SECTIONS = 20_000
"""Most sections of all documents of a job."""

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(\s*;.*)?", re.ASCII)
_MARKDOWN_SUFFIXES = (".md", ".markdown", ".mdown", ".mkd", ".mdx")


def document_id(index: int) -> str:
    """The id of a job's document, from its position (0 is the first)."""
    return f"d{index + 1}"


def document_names(spec: job_pb2.JobSpec) -> dict[str, str]:
    """Ids of a job's documents, by all that a plan may call them: name and id."""
    names = {_name(document): document_id(index) for index, document in enumerate(spec.documents)}
    ids = {document_id(index): document_id(index) for index in range(len(spec.documents))}
    return names | ids


def content_of(document: job_pb2.DocumentInput) -> str:
    """The text, in NFC, of a document that `check_documents` has passed.

    Raises:
        UnicodeDecodeError: It is not UTF-8 (`check_documents` finds that before).
    """
    text = document.text or document.content.decode()
    return unicodedata.normalize("NFC", text.removeprefix("\ufeff"))


def media_type_of(document: job_pb2.DocumentInput) -> str:
    """The MIME type given, or a guess by the name."""
    if document.media_type:
        return document.media_type
    markdown = document.name.lower().endswith(_MARKDOWN_SUFFIXES)
    return "text/markdown" if markdown else "text/plain"


def thin_sections(refs: Sequence[task_pb2.DocumentRef], limit: int = MAX_SECTIONS) -> None:
    """Joins neighbouring sections until all documents together have about `limit`.

    The outline is part of the job's first event, of every plan request and of each
    `GetJob`: thousands of one-line sections would make them all too large to send.
    """
    total = sum(len(ref.sections) for ref in refs)
    if total <= limit:
        return
    for ref in refs:
        size = -(-total // limit)
        groups = [ref.sections[at : at + size] for at in range(0, len(ref.sections), size)]
        joined = [_join(group, f"{ref.document_id}#{n}") for n, group in enumerate(groups)]
        del ref.sections[:]
        ref.sections.extend(joined)


def _join(group: Sequence[task_pb2.Section], section_id: str) -> task_pb2.Section:
    return task_pb2.Section(
        section_id=section_id,
        heading=group[0].heading,
        level=group[0].level,
        start_byte=group[0].start_byte,
        end_byte=group[-1].end_byte,
        approximate_tokens=sum(section.approximate_tokens for section in group),
    )


def check_documents(spec: job_pb2.JobSpec, limits: Limits, faults: Violations) -> None:
    """Notes everything that is wrong with the documents of a job."""
    if len(spec.documents) > limits.max_documents:
        faults.add(
            "job.documents",
            f"at most {limits.max_documents:,} documents are allowed, got {len(spec.documents):,}",
        )
        return
    total = len(spec.task_description.encode())
    first: dict[str, int] = {}
    ids = {document_id(index): index for index in range(len(spec.documents))}
    for index, document in enumerate(spec.documents):
        path = f"job.documents[{index}]"
        for name, fault in _name_faults(document, index, ids, first):
            faults.add(f"{path}.{name}", fault)
        first.setdefault(_name(document), index)
        size = len(document.content) + len(document.text.encode())
        found = list(_content_faults(document, size, limits))
        for name, fault in found:
            faults.add(f"{path}.{name}", fault)
        # What is kept is the text in NFC, which can be three times as large.
        total += size if found else max(size, utf8_size(content_of(document)))
    if total > limits.max_job_bytes:
        faults.add(
            "job.documents",
            f"the job holds {total:,} bytes of text, at most {limits.max_job_bytes:,} are allowed",
        )


def _name(document: job_pb2.DocumentInput) -> str:
    # One that is too long is refused: it need not be looked at.
    return normalized(document.name[: MAX_NAME_CHARS + 1])


def _name_faults(
    document: job_pb2.DocumentInput, index: int, ids: dict[str, int], first: dict[str, int]
) -> Iterator[tuple[str, str]]:
    name = _name(document)
    if name and not name.strip():
        yield "name", "must not be blank"
    elif len(name) > MAX_NAME_CHARS:
        yield "name", f"must have at most {MAX_NAME_CHARS} characters, has {len(document.name):,}"
    elif "\n" in name or UNSEEN.search(name):
        # Two names that look alike, or one that turns what is printed behind it round.
        yield "name", "must not hold control characters, or characters that are not seen"
    elif (flood := find_mark_flood(document.name)) is not None:
        yield "name", mark_fault(flood)
    elif name and name in first:
        yield "name", f"{quote(name, 60)} is also the name of documents[{first[name]}]"
    elif ids.get(name, index) != index:
        # A plan that says "d2" must not mean two documents.
        yield "name", f"{quote(name)} is the id of another document of this job; rename it"
    media_type = document.media_type
    if len(media_type) > MAX_MEDIA_TYPE_CHARS or (
        media_type and not _MEDIA_TYPE.fullmatch(media_type)
    ):
        yield "media_type", "is not a MIME type such as text/plain or text/markdown"


def _content_faults(
    document: job_pb2.DocumentInput, size: int, limits: Limits
) -> Iterator[tuple[str, str]]:
    field = "text" if document.text else "content"
    if document.text and document.content:
        yield "text", "is set together with content: set one of them"
        return
    if size > limits.max_document_bytes:
        yield (
            field,
            f"has {size:,} bytes, at most {limits.max_document_bytes:,} are allowed: split it",
        )
        return
    text = document.text
    if document.content:
        try:
            text = document.content.decode()
        except UnicodeDecodeError as error:
            yield field, f"is not UTF-8 text: invalid byte at offset {error.start:,}"
            return
    if "\x00" in text:
        yield field, f"is binary: NUL character at offset {text.index(chr(0)):,}"
    if (flood := find_mark_flood(text)) is not None:
        yield field, mark_fault(flood)
        return
    grown = utf8_size(unicodedata.normalize("NFC", text))
    if grown > limits.max_document_bytes:
        yield (
            field,
            f"has {grown:,} bytes in Unicode's NFC, at most {limits.max_document_bytes:,} are "
            "allowed: split it",
        )
