"""What a request asks for, found without a model: its items and the prose around them.

An item is a question in the prose, or an entry of a list. Lists of constraints
("Rules:", "Format:") and instruction prose are no items.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from hma.text.sentences import closes_fence, fence_mark, list_marker, sentences
from hma.v1 import task_pb2

MAX_ITEMS = 500

_CONSTRAINT_LEAD = re.compile(
    r"\b(constraints?|requirements?|rules?|formats?|formatting|style|guidelines?|notes?|"
    r"instructions?|important|tone|audience|context|background|remember|acceptance|criteria|"
    r"do not|don't|must|please|keep in mind|hints?|assumptions?)\b",
    re.IGNORECASE,
)
_ASKING_LEAD = re.compile(
    r"\b(questions?|answers?|tasks?|items?|extract|find|list|following|points?|topics?|tell)\b",
    re.IGNORECASE,
)
# "Questions:", "Answer these:" in front of the first question of a paragraph.
_OPENING = re.compile(r"(?:[^?:]{0,60}\bquestions?|answer\b[^?:]{0,60})\s{0,3}:\s+", re.IGNORECASE)
# "1. Who? 2. When?": the entries of a list on one line, after the end of a sentence.
_NUMBER = re.compile(r"(\s*)(\d{1,3})([.)])\s+\S")
_NEXT_NUMBER = re.compile(r"(?<=[?.!;:])\s+(\d{1,3})([.)])\s+(?=\S)")
_LABEL = re.compile(r"\(?(?:Q(?:uestion)?\s{0,3}\d{0,4}|\d{1,3})\s{0,3}[:.)]\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """A task description, taken apart.

    Attributes:
        items: What it asks for, in order, without repetitions; at most `MAX_ITEMS`.
        prose: The sentences that are no items, in order.
        constraints: Entries of lists that say how to answer.
        left_out: How many items there were beyond `MAX_ITEMS`.
    """

    items: tuple[str, ...] = ()
    prose: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    left_out: int = 0


@dataclass(slots=True)
class _Entry:
    """A list entry; `children` are the entries one level below, deeper ones are text."""

    indent: int
    parts: list[str]
    children: list[_Entry] = field(default_factory=list)

    def own(self) -> str:
        return " ".join(self.parts)

    def whole(self) -> str:
        return " ".join([*self.parts, *(child.own() for child in self.children)])


@dataclass(slots=True)
class _Block:
    """A paragraph, or a list with the line that leads it in."""

    text: str = ""
    entries: list[_Entry] = field(default_factory=list)
    lead: str = ""


def find_items(description: str) -> list[task_pb2.Item]:
    """The items of a task description: "q1" … in order; empty when it has no parts."""
    items = read_request(description).items
    return [task_pb2.Item(item_id=f"q{n}", text=text) for n, text in enumerate(items, 1)]


def read_request(description: str) -> Request:
    """Takes a task description apart. Deterministic, in linear time."""
    blocks = _blocks(description)
    asked = any(_is_question(entry.whole()) for block in blocks for entry in block.entries)
    items: dict[str, str] = {}
    prose: list[str] = []
    constraints: list[str] = []
    for block in blocks:
        if block.entries:
            texts = _entries(block)
            if _asks(block, asked):
                for text in texts:
                    items.setdefault(_key(text), text)
            else:
                constraints.extend(texts)
            continue
        for sentence in sentences(block.text):
            if _is_question(sentence):
                text = _unlabelled(sentence)
                items.setdefault(_key(text), text)
            else:
                prose.append(sentence)
    found = [text for key, text in items.items() if key]
    return Request(
        items=tuple(found[:MAX_ITEMS]),
        prose=tuple(prose),
        constraints=tuple(constraints),
        left_out=max(0, len(found) - MAX_ITEMS),
    )


def _blocks(description: str) -> list[_Block]:
    blocks: list[_Block] = []
    paragraph: list[str] = []
    path: list[_Entry] = []
    lead, fence, blank = "", "", False

    def close_paragraph() -> None:
        nonlocal lead
        if paragraph:
            lead = " ".join(paragraph)
            blocks.append(_Block(text=lead))
            paragraph.clear()

    for line in _lines(description):
        words = line.strip().lstrip(">").strip()
        if fence:
            fence = "" if closes_fence(line, fence) else fence
        elif fence := fence_mark(line):
            close_paragraph()
            path = []
        elif not words:
            close_paragraph()
        elif words.startswith("#"):
            close_paragraph()
            path = []
            lead = words.lstrip("# ").rstrip()
            if _is_question(lead):
                blocks.append(_Block(text=lead))
        elif marker := list_marker(line.expandtabs(4)):
            close_paragraph()
            path = _add_entry(blocks, path, line.expandtabs(4), marker, lead)
        elif path and (not blank or line[:1].isspace()):
            path[-1].parts.append(words)
        elif not words.startswith("|"):
            path = []
            paragraph.append(words)
        blank = not words
    close_paragraph()
    return blocks


def _lines(description: str) -> Iterator[str]:
    """The lines, with each entry of a numbered list that was written on one as its own."""
    for line in description.splitlines():
        first = _NUMBER.match(line)
        if first is None:
            yield line
            continue
        begin, expected = 0, int(first[2]) + 1
        for marker in _NEXT_NUMBER.finditer(line, first.end()):
            if (int(marker[1]), marker[2]) == (expected, first[3]):
                yield (first[1] if begin else "") + line[begin : marker.start()]
                begin, expected = marker.start(1), expected + 1
        yield (first[1] if begin else "") + line[begin:]


def _add_entry(
    blocks: list[_Block], path: list[_Entry], line: str, marker: str, lead: str
) -> list[_Entry]:
    """Adds a list entry below the open ones; returns the entries that are open then."""
    indent = len(marker) - len(marker.lstrip())
    text = line[len(marker) :].strip()
    while path and path[-1].indent >= indent:
        path = path[:-1]
    if len(path) == 2:
        path[1].parts.append(text)
        return path
    entry = _Entry(indent, [text])
    if path:
        path[0].children.append(entry)
    elif blocks and blocks[-1].entries and blocks[-1].lead == lead:
        blocks[-1].entries.append(entry)
    else:
        blocks.append(_Block(entries=[entry], lead=lead))
    return [*path, entry]


def _entries(block: _Block) -> list[str]:
    texts: list[str] = []
    for entry in block.entries:
        if entry.own().endswith(":") and len(entry.children) > 1:
            # "Compare the price of:" with entries of its own: each of them is asked.
            for child in entry.children:
                alone = _is_question(child.own())
                texts.append(child.own() if alone else f"{entry.own()} {child.own()}")
        else:
            texts.append(entry.whole())
    return [_unlabelled(" ".join(text.split())) for text in texts]


def _asks(block: _Block, asked: bool) -> bool:
    """Whether the entries of a list are items.

    A list with a question in it asks. One without asks unless its lead-in says that
    it tells how to answer, or other lists hold the questions and nothing says that
    this one asks too.
    """
    if any(_is_question(entry.whole()) for entry in block.entries):
        return True
    # The last sentence before the list is what leads it in.
    lead = block.lead[-300:]
    last = (sentences(lead) or [""])[-1]
    if _CONSTRAINT_LEAD.search(last):
        return False
    return not asked or _ASKING_LEAD.search(last) is not None


def _is_question(text: str) -> bool:
    return text.rstrip("\"'”’)]*_` ").endswith(("?", "？"))


def _unlabelled(text: str) -> str:
    """Without "Questions:", "Q1:", "2)" or "Question 3." in front."""
    rest = text
    for pattern in (_OPENING, _LABEL):
        match = pattern.match(rest)
        rest = rest[match.end() :] if match else rest
    return rest or text


def _key(text: str) -> str:
    """What two wordings of the same item have in common; empty when it says nothing."""
    return " ".join(re.findall(r"\w+", text.casefold()))
