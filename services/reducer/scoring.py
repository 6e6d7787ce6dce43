"""How much of what was asked is answered, and how well it stands on its sources."""

from __future__ import annotations

from hma.v1 import common_pb2, task_pb2
from services.reducer.merging import Merged, Part

GROUNDED = 1.0
UNGROUNDED = 0.5
EXTRACT = 0.25


def confidence(merged: Merged) -> float:
    """The share of what was asked that was answered, weighted (task.proto, Answer).

    Items count one each, and so do tasks without items.
    """
    weights = [_weight(entry.answer) if entry.answer else 0.0 for entry in merged.entries]
    weights += [_of_part(part) for part in merged.parts if not part.folded]
    return sum(weights) / len(weights) if weights else 0.0


def _weight(answer: task_pb2.ItemAnswer) -> float:
    if answer.origin == common_pb2.ORIGIN_EXTRACT:
        return EXTRACT
    return GROUNDED if answer.grounded else UNGROUNDED


def _of_part(part: Part) -> float:
    if part.answers:
        return sum(map(_weight, part.answers)) / len(part.answers)
    return 0.0 if part.empty else UNGROUNDED
