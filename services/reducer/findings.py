"""What the model writes prose over: the merged results, each under its id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hma.text.splitting import split_to_fit
from hma.text.tokens import BYTES_PER_TOKEN, approximate_tokens
from hma.v1 import common_pb2
from services.reducer.merging import Merged
from services.reducer.places import Places
from services.reducer.rendering import part_text

# "[q1]", "[q1, q2]", "[q1; t3]"
_CITATION = re.compile(r"\[([^\[\]\n]{1,200})\]")


@dataclass(frozen=True, slots=True)
class Finding:
    """A result with the ids that it carries.

    Attributes:
        ids: Ids of items or tasks; one, or several in a condensed finding.
        text: The words.
    """

    ids: tuple[str, ...]
    text: str

    @property
    def tokens(self) -> int:
        """Estimated tokens."""
        return approximate_tokens(self.text)


def findings_of(merged: Merged, places: Places) -> list[Finding]:
    """All that has been answered, in order."""
    found = []
    for entry in merged.entries:
        answer = entry.answer
        if answer is None:
            continue
        mark = " (extract)" if answer.origin == common_pb2.ORIGIN_EXTRACT else ""
        lines = [f"[{entry.item.item_id}]{mark} {entry.item.text}", f"Answer: {answer.answer}"]
        if answer.evidence and answer.evidence != answer.answer:
            where = places.label(answer.section_id)
            lines.append(f"Source: {answer.evidence}" + (f" ({where})" if where else ""))
        found.append(Finding((entry.item.item_id,), "\n".join(lines)))
    for part in merged.parts:
        if not part.folded and not part.empty:
            extract = any(a.origin == common_pb2.ORIGIN_EXTRACT for a in part.answers)
            mark = " (extract)" if extract else ""
            head = f"[{part.task.id}]{mark} {part.task.title}"
            found.append(Finding((part.task.id,), f"{head}\n{part_text(part)}"))
    return found


def group(findings: Sequence[Finding], limit: int) -> list[list[Finding]]:
    """Packs findings in order into groups of at most `limit` estimated tokens.

    A finding that is longer than that is cut to its beginning.
    """
    groups: list[list[Finding]] = []
    room = 0
    for whole in findings:
        finding = whole
        if finding.tokens > limit:
            head = split_to_fit(finding.text, max(4, (limit - 1) * BYTES_PER_TOKEN))[0]
            finding = Finding(finding.ids, head)
        if not groups or finding.tokens > room:
            groups.append([])
            room = limit
        groups[-1].append(finding)
        room -= finding.tokens
    return groups


def cited(text: str, ids: Iterable[str]) -> set[str]:
    """Which of `ids` a text names in brackets."""
    named = {name.strip() for match in _CITATION.findall(text) for name in re.split(r"[,;]", match)}
    return named & set(ids)
