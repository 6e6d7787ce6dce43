"""Inputs to plan from, and what every plan has to be."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hma.llm.profiles import PRESETS
from hma.text.items import find_items
from hma.text.outline import outline
from hma.v1 import analyst_pb2, common_pb2, task_pb2
from services.analyst.inputs import Inputs

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
HANDBOOK = "# Opening\n\nNine to five.\n\n# Prices\n\nTen euros.\n"


def make_inputs(
    description: str = "Answer.\n\n1. When does it open?\n2. What does it cost?\n3. Why is it so?",
    documents: Sequence[str] = (HANDBOOK, "# Other\n\nText.\n\n# More\n\nText.\n"),
    *,
    max_tasks: int = 8,
    profile: str = "standard",
    context_tokens: int = 8192,
) -> Inputs:
    """Inputs as a start frame would hold them."""
    return Inputs(
        description=description,
        documents=tuple(
            outline(f"d{n}", f"doc{n}.md", "text/markdown", content)
            for n, content in enumerate(documents, 1)
        ),
        items=tuple(find_items(description)),
        max_tasks=max_tasks,
        profile=PRESETS[profile],
        context_tokens=context_tokens,
    )


def assert_valid_prefix(
    fragments: Sequence[analyst_pb2.PlanFragment], inputs: Inputs
) -> list[task_pb2.Task]:
    """Every prefix of a plan is a valid plan. Returns the tasks."""
    assert [f.index for f in fragments] == list(range(1, len(fragments) + 1))
    pieces = [f.WhichOneof("piece") for f in fragments]
    if fragments:
        assert pieces[0] == "brief"
        assert fragments[0].brief.objective
    assert pieces.count("brief") <= 1
    tasks = [f.task for f in fragments if f.HasField("task")]
    assert len(tasks) <= inputs.max_tasks
    known: set[str] = set()
    claimed: set[str] = set()
    for task in tasks:
        assert _ID.fullmatch(task.id)
        assert task.id not in known
        assert set(task.depends_on) <= known
        assert len(set(task.depends_on)) == len(task.depends_on)
        assert set(task.documents) <= inputs.readable
        assert 0 < len(task.instruction) <= 8_000
        assert len(task.title) <= 200
        assert task.max_result_tokens > 0
        assert task.complexity != common_pb2.COMPLEXITY_UNSPECIFIED
        assert task.kind != common_pb2.TASK_KIND_UNSPECIFIED
        names = [item.item_id for item in task.items]
        assert len(set(names)) == len(names)
        assert not claimed & set(names)
        assert set(names) <= {item.item_id for item in inputs.items}
        known.add(task.id)
        claimed |= set(names)
    return tasks


def assert_covers_all(tasks: Sequence[task_pb2.Task], inputs: Inputs) -> None:
    """A finished plan has a task and covers every item."""
    assert tasks
    claimed = [item.item_id for task in tasks for item in task.items]
    assert sorted(claimed) == sorted(item.item_id for item in inputs.items)
