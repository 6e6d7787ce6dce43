"""From the text of a call to answers by item, or to an object of the task's own schema."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError

from services.worker.recover import Condition, Recovered, clean, recover
from services.worker.schema_check import CannotApply, schema_faults

_MAX_DEPTH = 32
_MAX_PATH = 100
_SENTENCE_END = re.compile(r"[.!?…](?=[\s\"')\]]|\Z)")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a model said about one item, before it is compared with the source.

    Attributes:
        item_id: One of the ids that were asked.
        answer: Closed and not empty; empty when the model says that there is none.
        evidence: The words it quotes; may be empty.
        cut: The answer is prose that was cut after a whole sentence.
    """

    item_id: str
    answer: str
    evidence: str = ""
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Drafts:
    """What one call brought.

    Attributes:
        items: One draft per item that came with a closed answer, in the order written.
        notes: The remarks at the end; empty when the text did not get there.
        condition: What became of the text.
    """

    items: tuple[Draft, ...]
    notes: str
    condition: Condition


@dataclass(frozen=True, slots=True)
class Output:
    """An output in a task's own schema.

    Attributes:
        value: The object, as far as it closed; None when nothing can be read.
        faults: Where it breaks the schema, in words; empty when it holds.
        condition: What became of the text.
    """

    value: dict[str, Any] | None
    faults: tuple[str, ...]
    condition: Condition


def read_drafts(
    text: str, item_ids: Sequence[str], *, prose: bool = False, longest: int = 0
) -> Drafts:
    """Reads `{"items": [{"id", "answer", "evidence"}], "notes"}`, whole or cut.

    Args:
        text: What the model wrote.
        item_ids: The ids that were asked; others are dropped, the first of two wins.
        prose: Keep an answer that was still being written, up to its last whole sentence.
            Never for look-ups: half a name is a wrong answer.
        longest: Characters at which the schema closed an answer, so that one as long
            counts as cut; 0: it did not.
    """
    found = recover(text)
    ids = {item_id.casefold(): item_id for item_id in item_ids}
    drafts: dict[str, Draft] = {}
    for entry in _entries(found):
        draft = _draft(entry, ids)
        if draft is not None and longest and _reaches(entry, longest):
            draft = _cut_after_a_sentence(draft) if prose else None
        if draft is not None:
            drafts.setdefault(draft.item_id, draft)
    if prose and found.condition is Condition.TRUNCATED:
        draft = _open_draft(found, ids)
        if draft is not None:
            drafts.setdefault(draft.item_id, draft)
    notes = found.value.get("notes") if isinstance(found.value, dict) else None
    return Drafts(
        tuple(drafts.values()), clean(notes) if isinstance(notes, str) else "", found.condition
    )


def read_output(text: str, schema: Mapping[str, Any]) -> Output:
    """Reads an object of the task's own schema and says where it breaks it."""
    found = recover(text)
    value = found.value
    if found.condition is Condition.MALFORMED and found.objects:
        value = max(found.objects, key=len)
    if not isinstance(value, dict):
        return Output(None, ("there is no JSON object in the output",), found.condition)
    if _deeper_than(value, _MAX_DEPTH):
        # A protobuf nested as deep could be written but not read.
        return Output(None, ("the output is nested too deep",), found.condition)
    try:
        value = _cleaned(value)
    except OverflowError:
        return Output(None, ("a number in the output is too large",), found.condition)
    try:
        errors = schema_faults(value, schema)
    except CannotApply:
        return Output(value, ("its schema cannot be applied",), found.condition)
    faults = tuple(dict.fromkeys(_fault(error) for error in errors))
    if found.condition is Condition.TRUNCATED:
        # What has closed may satisfy the schema and still be half of a list.
        faults = ("it was cut off before its end", *faults)
    return Output(value, faults[:10], found.condition)


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last whole sentence; empty when none has ended."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return clean(text[: ends[-1]]) if ends else ""


def schema_fault(schema: object) -> str | None:
    """What is wrong with a task's own schema, or None."""
    if not isinstance(schema, dict):
        return "it is not a JSON object"
    if schema.get("type", "object") != "object":
        return "its type is not object"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path} is not valid JSON Schema"
    except RecursionError:
        return "it is nested too deep"
    return None


def _entries(found: Recovered) -> Iterable[Any]:
    """The objects that may be items, wherever the model put them."""
    value = found.value
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        items = value.get("items")
        return items if isinstance(items, list) else [value]
    entries: list[Any] = []
    for candidate in found.objects:
        items = candidate.get("items")
        entries.extend(items if isinstance(items, list) else [candidate])
    return entries


def _draft(entry: Any, ids: Mapping[str, str]) -> Draft | None:
    if not isinstance(entry, dict):
        return None
    key, answer, evidence = entry.get("id"), entry.get("answer"), entry.get("evidence")
    item_id = ids.get(key.strip().casefold()) if isinstance(key, str) else None
    if item_id is None or isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return None
    return Draft(item_id, clean(str(answer)), clean(evidence) if isinstance(evidence, str) else "")


def _reaches(entry: Mapping[str, Any], longest: int) -> bool:
    answer = entry["answer"]
    return isinstance(answer, str) and len(answer) >= longest


def _open_draft(found: Recovered, ids: Mapping[str, str]) -> Draft | None:
    """The item that was being written when the text ended, cut after a whole sentence."""
    entries = list(_entries(Recovered(found.condition, found.open_text)))
    draft = _draft(entries[-1], ids) if entries else None
    return _cut_after_a_sentence(draft) if draft is not None else None


def _cut_after_a_sentence(draft: Draft) -> Draft | None:
    answer = whole_sentences(draft.answer)
    return Draft(draft.item_id, answer, cut=True) if answer else None


def _cleaned(value: Any) -> Any:
    """`value` with everything in it fit for a protobuf.

    Raises:
        OverflowError: A number is no finite double.
    """
    if isinstance(value, int | float) and not math.isfinite(float(value)):
        raise OverflowError
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): _cleaned(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_cleaned(entry) for entry in value]
    return value


def _fault(error: ValidationError) -> str:
    """A fault in the schema's words; those of the output may be anybody's."""
    where = error.json_path[:_MAX_PATH]
    required: Any = error.validator_value
    if error.validator == "required" and isinstance(error.instance, dict):
        lacking = [str(name) for name in required if name not in error.instance]
        return f"{where}: lacks {', '.join(lacking)}"
    return f"{where}: {error.validator} does not hold"


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
