"""Sentences, paragraphs and passages of a text, as spans of characters.

A passage is the unit of retrieval: a sentence of prose, a list item, a table row,
a line of code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Quotes and brackets that belong to the sentence they close.
_CLOSERS = "\"'”’»)\\]*_`"
# A run of stops is tried once, from its start, and never given back: scanning stays
# linear on a megabyte of dots. CJK sentences end without a space.
_END = re.compile(rf"(?<![.!?…])[.!?…]++[{_CLOSERS}]*+(?=\s)|[。！？]++[」』”’]*+")
_BLANK_LINES = re.compile(r"\n[ \t\r\f\v]*\n\s*")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•‣–][ \t]+|\(?\d{1,3}[.)][ \t]+|\(?[a-zA-Z][.)][ \t]+)")
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
_ABBREVIATIONS_TEXT = (
    "mr mrs ms dr prof st no nos vs fig figs eq sec ch vol pp p ed eds al etc approx ca cf "
    "e.g i.e u.s u.k jan feb mar apr jun jul aug sep sept oct nov dec inc ltd co corp dept est "
    "max min resp incl excl gen col sgt capt lt rev hon jr sr"
)
_ABBREVIATIONS = frozenset(_ABBREVIATIONS_TEXT.split())


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text.

    Attributes:
        start: First character.
        end: After the last character.
    """

    start: int
    end: int

    def of(self, text: str) -> str:
        """The words themselves."""
        return text[self.start : self.end]


def sentences(text: str) -> list[str]:
    """The sentences of prose, trimmed, in order; empty ones are left out."""
    return [span.of(text) for span in sentence_spans(text)]


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Sentences of `text[start:end]`, without the space around them.

    A stop does not end a sentence after an abbreviation, an initial or a list
    number, nor before a lower-case letter.
    """
    end = len(text) if end is None else end
    spans: list[Span] = []
    begin = start
    for match in _END.finditer(text, start, end):
        if match.start() >= begin and _ends_sentence(text, begin, match, end):
            _append_trimmed(spans, text, begin, match.end())
            begin = match.end()
    _append_trimmed(spans, text, begin, end)
    return spans


def paragraph_spans(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Blocks of `text[start:end]` between blank lines, without the space around them."""
    end = len(text) if end is None else end
    spans: list[Span] = []
    begin = start
    for match in _BLANK_LINES.finditer(text, start, end):
        _append_trimmed(spans, text, begin, match.start())
        begin = match.end()
    _append_trimmed(spans, text, begin, end)
    return spans


def passage_spans(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Passages of `text[start:end]`: sentences, list items, table rows, code lines.

    Prose that is wrapped over several lines is joined before it is split into
    sentences. Headings, rules and fences are not passages.
    """
    end = len(text) if end is None else end
    spans: list[Span] = []
    prose: list[Span] = []
    fence = ""

    def flush() -> None:
        if prose:
            spans.extend(sentence_spans(text, prose[0].start, prose[-1].end))
            prose.clear()

    for line in _lines(text, start, end):
        words = line.of(text)
        mark = fence_mark(words)
        if fence:
            if mark and closes_fence(words, fence):
                fence = ""
            else:
                _append_trimmed(spans, text, line.start, line.end)
        elif mark:
            flush()
            fence = mark
        elif not words.strip() or _is_rule(words) or _HEADING.match(words):
            flush()
        elif words.lstrip().startswith("|"):
            flush()
            _append_trimmed(spans, text, line.start, line.end)
        elif item := _LIST_ITEM.match(words):
            flush()
            prose.append(Span(line.start + item.end(), line.end))
        else:
            prose.append(line)
    flush()
    return spans


def fence_mark(line: str) -> str:
    """The backticks or tildes with which `line` opens a code block; empty if it does not."""
    bare = line.strip()
    if not bare.startswith(("```", "~~~")):
        return ""
    info = bare.lstrip(bare[0])
    # An inline ```span``` on a line of its own opens nothing.
    return "" if bare[0] == "`" and "`" in info else bare[: len(bare) - len(info)]


def closes_fence(line: str, mark: str) -> bool:
    """Whether `line` closes the code block that `mark` opened."""
    rest = line.strip()
    return len(rest) >= len(mark) and not rest.strip(mark[0])


def list_marker(line: str) -> str:
    """The bullet or number, with its indent and space, that `line` begins with."""
    match = _LIST_ITEM.match(line)
    return match[0] if match else ""


def _lines(text: str, start: int, end: int) -> Iterator[Span]:
    while start < end:
        newline = text.find("\n", start, end)
        stop = end if newline < 0 else newline + 1
        yield Span(start, stop)
        start = stop


def _is_rule(line: str) -> bool:
    bare = line.strip()
    table_rule = "-" in bare and not bare.strip("|:- \t")
    return table_rule or (len(bare) >= 3 and bare[0] in "=*_" and not bare.strip(bare[0]))


def _ends_sentence(text: str, begin: int, match: re.Match[str], end: int) -> bool:
    stop = match[0][0]
    if stop in "。！？":
        return True
    after = match.end()
    while after < end and text[after].isspace():
        after += 1
    if after < end and text[after].islower():
        return False
    if match[0] != ".":
        return True
    # The word before the stop; 12 characters hold every abbreviation.
    tail = text[max(begin, match.start() - 12) : match.start()].split()
    if not tail:
        return False
    word = tail[-1].lstrip("(\"'“‘[").lower()
    is_number = word.isdigit() and len(word) <= 2 and _is_enumerator(tail)
    is_initial = len(word) == 1 and word.isalpha() and tail[-1][-1:].isupper()
    return not (is_number or is_initial or word in _ABBREVIATIONS)


def _is_enumerator(tail: list[str]) -> bool:
    """Whether the last word is a list number ("… heights: 1. If …") and no quantity."""
    return len(tail) == 1 or tail[-2][-1] in ":;,.)%"


def _append_trimmed(spans: list[Span], text: str, start: int, end: int) -> None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        spans.append(Span(start, end))
