"""The merged results as Markdown that a person can read."""

from __future__ import annotations

import json
from collections.abc import Iterator

from google.protobuf import json_format

from hma.v1 import common_pb2, task_pb2
from services.reducer.merging import Entry, Merged, Part
from services.reducer.places import Places

EXTRACTED = "Extracted, not read by a model"
_MAX_QUOTE = 300


def render(merged: Merged, places: Places) -> Iterator[str]:
    """Blocks of the answer; joined by blank lines they are its text.

    Each item with its answer and source, then each task without items under its
    title, then remarks, then what is missing and why.
    """
    numbered = len(merged.entries) > 1
    for number, entry in enumerate(merged.entries, 1):
        yield render_entry(entry, places, number if numbered else 0)
    shown = [part for part in merged.parts if not part.folded and not part.empty]
    titled = len(shown) > 1 or bool(merged.entries)
    for part in shown:
        yield _render_part(part, places, titled=titled)
    if merged.notes:
        rows = [f"- {_line(title)}: {_line(note)}" for title, note in merged.notes]
        yield "\n".join(["**Remarks**", "", *rows])
    yield from render_missing(merged)


def render_entry(entry: Entry, places: Places, number: int) -> str:
    """One item: question, answer, source. `number` 0 leaves the number out."""
    question = _line(entry.item.text) or entry.item.item_id
    lines = [f"**{number}. {question}**" if number else f"**{question}**", ""]
    if entry.answer is None:
        reason = entry.missing.reason if entry.missing else "No reason is known."
        lines.append(f"*No answer.* {_line(reason)}")
    else:
        lines.append(_render_answer(entry.answer, entry.missing, places))
    return "\n".join(lines)


def render_missing(merged: Merged) -> Iterator[str]:
    """The list of what has no answer at all; nothing when all has one."""
    questions = {entry.item.item_id: entry.item.text for entry in merged.entries}
    titles = {part.task.id: part.task.title for part in merged.parts}
    covered = {entry.item.item_id for entry in merged.entries if entry.answer is not None}
    rows = []
    for missing in merged.missing:
        if missing.item_id in covered:
            continue  # an extract stands in, and says why
        what = questions.get(missing.item_id) or titles.get(missing.item_id) or missing.item_id
        rows.append(f"- {_line(what)}: {_line(missing.reason)}")
    if rows:
        yield "\n".join(["**Missing**", "", *rows])


def part_text(part: Part) -> str:
    """What a task without items wrote, as text."""
    return "\n\n".join([*(answer.answer.strip() for answer in part.answers), *_rest(part)])


def _render_part(part: Part, places: Places, *, titled: bool) -> str:
    blocks = [f"## {_line(part.task.title) or part.task.id}"] if titled else []
    missing = part.missing[0] if part.missing else None
    blocks += [_render_answer(answer, missing, places) for answer in part.answers]
    return "\n\n".join([*blocks, *_rest(part)])


def _rest(part: Part) -> list[str]:
    """What a task left besides its answers; remarks are the text when there is no other."""
    if part.result is None:
        return []
    notes = part.result.notes.strip()
    if part.answers:
        return [f"*{_line(notes)}*"] if notes else []
    code = [_code(part.result)] if part.result.structured.fields else []
    return code + ([f"*{_line(notes)}*" if code else notes] if notes else [])


def _render_answer(
    answer: task_pb2.ItemAnswer, missing: task_pb2.Missing | None, places: Places
) -> str:
    text = answer.answer.strip()
    if answer.origin == common_pb2.ORIGIN_EXTRACT:
        why = f" ({_line(missing.reason).rstrip('.')})" if missing else ""
        text = f"*{EXTRACTED}{why}:* {text}"
    evidence = _line(answer.evidence)
    where = places.label(answer.section_id)
    if evidence and evidence != _line(answer.answer):
        quote = evidence if len(evidence) <= _MAX_QUOTE else evidence[: _MAX_QUOTE - 1] + "…"
        return f"{text}\n\n> {quote}" + (f"\n> — {where}" if where else "")
    return f"{text} ({where})" if where else text


def _code(result: task_pb2.TaskResult) -> str:
    value = json_format.MessageToDict(result.structured)
    return "```json\n" + json.dumps(value, indent=2, ensure_ascii=False) + "\n```"


def _line(text: str) -> str:
    return " ".join(text.split())
