"""What the model writes prose over: the merged results, each under its id."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
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
    ids = {entry.item.item_id for entry in merged.entries} | {p.task.id for p in merged.parts}
    for entry in merged.entries:
        answer = entry.answer
        if answer is None:
            continue
        mark = " (extract)" if answer.origin == common_pb2.ORIGIN_EXTRACT else ""
        lines = [
            f"[{entry.item.item_id}]{mark} {entry.item.text}",
            f"Answer: {_uncited(answer.answer, ids)}",
        ]
        if answer.evidence and answer.evidence != answer.answer:
            where = places.label(answer.section_id)
            lines.append(
                f"Source: {_uncited(answer.evidence, ids)}" + (f" ({where})" if where else "")
            )
        found.append(Finding((entry.item.item_id,), "\n".join(lines)))
    for part in merged.parts:
        if not part.folded and not part.empty:
            extract = any(a.origin == common_pb2.ORIGIN_EXTRACT for a in part.answers)
            mark = " (extract)" if extract else ""
            head = f"[{part.task.id}]{mark} {part.task.title}"
            found.append(Finding((part.task.id,), f"{head}\n{_uncited(part_text(part), ids)}"))
    return found


def _uncited(text: str, ids: Container[str]) -> str:
    """`text` that does not stand under the id of a finding, its own or another's."""
    return _CITATION.sub(
        lambda match: f"({match[1]})" if any(n in ids for n in _names(match[1])) else match[0], text
    )


def _names(citation: str) -> list[str]:
    return [name.strip() for name in re.split(r"[,;]", citation)]


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
    named = {name for match in _CITATION.findall(text) for name in _names(match)}
    return named & set(ids)
