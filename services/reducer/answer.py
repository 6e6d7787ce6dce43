"""The answer message: text, items, structure, sources, confidence."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import struct_pb2

from hma.v1 import common_pb2, reducer_pb2, task_pb2
from services.reducer.merging import Merged
from services.reducer.places import Places
from services.reducer.scoring import confidence


def make_answer(
    merged: Merged,
    outcomes: Sequence[reducer_pb2.TaskOutcome],
    places: Places,
    text: str,
    origin: common_pb2.Origin.ValueType,
) -> task_pb2.Answer:
    """Puts the answer together.

    Args:
        merged: All results.
        outcomes: What they were merged from.
        places: Names for the sources.
        text: The answer in words.
        origin: Who wrote the text.
    """
    return task_pb2.Answer(
        text=text,
        structured=structured(merged, outcomes),
        confidence=confidence(merged),
        missing=merged.missing,
        sources=places.sources(merged.answers),
        items=merged.answers,
        origin=origin,
    )


def structured(
    merged: Merged, outcomes: Sequence[reducer_pb2.TaskOutcome]
) -> struct_pb2.Struct | None:
    """The only task's own output when its schema asked for one, else the items.

    Returns:
        None when there is nothing to show.
    """
    if len(outcomes) == 1 and outcomes[0].task.output_schema:
        own = outcomes[0].result.structured
        return own if own.fields else None
    answers = merged.answers
    if not answers:
        return None
    items = struct_pb2.Struct()
    items.update(
        {"items": [{"id": a.item_id, "answer": a.answer, "evidence": a.evidence} for a in answers]}
    )
    return items
