"""The structural plan: made by code from items, documents and sections.

It serves models that cannot plan, and what a model's plan left over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from hma.v1 import common_pb2, task_pb2
from services.analyst.complexity import complexity_of, kind_of
from services.analyst.inputs import Inputs
from services.analyst.wording import MAX_INSTRUCTION, MAX_TITLE, line, shorten

_REFERENCE = re.compile(
    r"\b(?:questions?|items?|points?|steps?|q)\s{0,2}#?(\d{1,3})\b", re.IGNORECASE
)
_PREVIOUS = re.compile(
    r"\b(?:previous|above|preceding|last) (?:answer|question|item|result|step)", re.IGNORECASE
)
# Prose comes out longer than an answer to one item.
_PROSE_FACTOR = 4
# A cap at the typical length would cut every second JSON answer before it closes;
# a plain answer that is cut is still an answer.
_CAP_FACTOR = {"plain": 1, "json": 2}
# What a model can read of its context and still use it, by how it is fed.
_SAFE_SHARE = {"sentence": 4, "paragraph": 3, "section": 2}


def task_id(number: int) -> str:
    """The id of the task at a position, from 1."""
    return f"t{number}"


def result_tokens(inputs: Inputs, items: int, kind: common_pb2.TaskKind.ValueType) -> int:
    """Most completion tokens of a task's result, from the route's typical answer."""
    prose = kind in (common_pb2.TASK_KIND_SUMMARIZE, common_pb2.TASK_KIND_WRITE)
    typical = inputs.profile.answer_tokens * max(1, items) * (_PROSE_FACTOR if prose else 1)
    return typical * _CAP_FACTOR[inputs.profile.answer_style]


def safe_context(inputs: Inputs) -> int:
    """Tokens of documents that one task can read at once."""
    return max(256, inputs.context_tokens // _SAFE_SHARE[inputs.profile.retrieval])


def tasks_for_items(
    inputs: Inputs,
    items: Sequence[task_pb2.Item],
    *,
    first: int,
    limit: int,
    owners: Mapping[str, str],
) -> list[task_pb2.Task]:
    """One task per item or per batch of items.

    Args:
        inputs: Of the plan.
        items: The items to cover, in order; all of them are.
        first: Position of the first task.
        limit: Most tasks; at least 1. Batches grow beyond the profile's to keep it.
        owners: Tasks of items that are planned already, by item id.
    """
    size = max(1, inputs.profile.max_batch, -(-len(items) // limit))
    # As few tasks as the size allows, evenly filled.
    count = -(-len(items) // size)
    bounds = [len(items) * n // count for n in range(count + 1)]
    owned = dict(owners)
    tasks: list[task_pb2.Task] = []
    for number, (start, end) in enumerate(pairwise(bounds), first):
        batch = items[start:end]
        earlier = _referenced(inputs, batch, owned)
        owned.update((item.item_id, task_id(number)) for item in batch)
        tasks.append(_task_for_batch(inputs, number, batch, earlier))
    return tasks


def tasks_for_documents(
    inputs: Inputs, *, first: int, limit: int, claimed: frozenset[str] = frozenset()
) -> list[task_pb2.Task]:
    """One task for everything when it fits, else one per group of sections.

    Args:
        inputs: Of the plan; without items.
        first: Position of the first task.
        limit: Most tasks; at least 1. Groups grow beyond the safe context to keep it.
        claimed: Ids of documents and sections that are planned already.
    """
    groups = _groups(inputs, limit, claimed)
    if len(groups) <= 1 and not claimed:
        return [_task_for_all(inputs, first)]
    kind = kind_of(inputs.description)
    if kind != common_pb2.TASK_KIND_SUMMARIZE:
        kind = common_pb2.TASK_KIND_EXTRACT
    return [_task_for_group(inputs, n, group, kind) for n, group in enumerate(groups, first)]


def _task_for_batch(
    inputs: Inputs, number: int, batch: Sequence[task_pb2.Item], depends_on: Iterable[str]
) -> task_pb2.Task:
    kind = common_pb2.TASK_KIND_ANSWER
    if not any(item.text.rstrip().endswith(("?", "？")) for item in batch):
        named = kind_of(inputs.description)
        kind = common_pb2.TASK_KIND_ANSWER if named == common_pb2.TASK_KIND_WRITE else named
    source = " from the documents" if inputs.documents else ""
    what = "the item" if len(batch) == 1 else f"each of the {len(batch)} items"
    verb = {
        common_pb2.TASK_KIND_EXTRACT: "Extract what is named by",
        common_pb2.TASK_KIND_SUMMARIZE: "Summarise what concerns",
    }.get(kind, "Answer")
    title = line(batch[0].text, MAX_TITLE)
    if len(batch) > 1:
        title = f"{line(batch[0].text, MAX_TITLE - 10)} +{len(batch) - 1}"
    return task_pb2.Task(
        id=task_id(number),
        title=title,
        instruction=f"{verb} {what}{source}.",
        complexity=max(complexity_of(item.text) for item in batch),
        depends_on=depends_on,
        kind=kind,
        items=batch,
        max_result_tokens=result_tokens(inputs, len(batch), common_pb2.TASK_KIND_ANSWER),
    )


def _referenced(
    inputs: Inputs, batch: Sequence[task_pb2.Item], owners: Mapping[str, str]
) -> list[str]:
    """Tasks of earlier items that the batch speaks of ("as in question 2")."""
    positions = {item.item_id: n for n, item in enumerate(inputs.items)}
    found: list[int] = []
    for item in batch:
        own = positions.get(item.item_id, 0)
        found += [int(n) - 1 for n in _REFERENCE.findall(item.text[:2_000]) if 0 < int(n) <= own]
        if own and _PREVIOUS.search(item.text[:2_000]):
            found.append(own - 1)
    ids = (inputs.items[n].item_id for n in found)
    return list(dict.fromkeys(owners[i] for i in ids if i in owners))


def _task_for_all(inputs: Inputs, number: int) -> task_pb2.Task:
    kind = kind_of(inputs.description)
    return task_pb2.Task(
        id=task_id(number),
        title=line(inputs.description, MAX_TITLE) or "The whole request",
        instruction=shorten(inputs.description.strip(), MAX_INSTRUCTION) or "Do what is asked.",
        complexity=complexity_of(inputs.description[:2_000]),
        kind=kind,
        max_result_tokens=result_tokens(inputs, 1, kind),
    )


def _task_for_group(
    inputs: Inputs,
    number: int,
    group: Sequence[tuple[task_pb2.DocumentRef, task_pb2.Section]],
    kind: common_pb2.TaskKind.ValueType,
) -> task_pb2.Task:
    asked = shorten(inputs.description.strip(), MAX_INSTRUCTION - 200)
    summarize = kind == common_pb2.TASK_KIND_SUMMARIZE
    lead = (
        "Summarise the given sections with regard to this request:"
        if summarize
        else "Extract from the given sections what helps with this request:"
    )
    document, section = group[0]
    place = f"{document.name}: {section.heading}" if section.heading else document.name
    more = f" +{len(group) - 1}" if len(group) > 1 else ""
    verb = "Summarise" if summarize else "Extract from"
    return task_pb2.Task(
        id=task_id(number),
        title=line(f"{verb} {place}", MAX_TITLE - 6) + more,
        instruction=f"{lead} {asked}",
        complexity=common_pb2.COMPLEXITY_MEDIUM,
        documents=_names(inputs, group),
        kind=kind,
        max_result_tokens=result_tokens(inputs, 1, common_pb2.TASK_KIND_SUMMARIZE),
    )


def _groups(
    inputs: Inputs, limit: int, claimed: frozenset[str]
) -> list[list[tuple[task_pb2.DocumentRef, task_pb2.Section]]]:
    """Unclaimed sections in order, packed to the safe context, in at most `limit` groups."""
    sections = [
        (document, section)
        for document in inputs.documents
        if document.document_id not in claimed
        for section in document.sections
        if section.section_id not in claimed
    ]
    total = sum(section.approximate_tokens for _, section in sections)
    size = max(safe_context(inputs), -(-total // limit))
    groups: list[list[tuple[task_pb2.DocumentRef, task_pb2.Section]]] = []
    room = 0
    for document, section in sections:
        # The last group takes what rounding left over.
        if not groups or (section.approximate_tokens > room and len(groups) < limit):
            groups.append([])
            room = size
        groups[-1].append((document, section))
        room -= section.approximate_tokens
    return groups


def _names(
    inputs: Inputs, group: Sequence[tuple[task_pb2.DocumentRef, task_pb2.Section]]
) -> list[str]:
    """Ids of what a group reads: the document's where it reads all of it."""
    by_document: dict[str, list[str]] = {}
    for document, section in group:
        by_document.setdefault(document.document_id, []).append(section.section_id)
    sizes = {document.document_id: len(document.sections) for document in inputs.documents}
    names: list[str] = []
    for document_id, section_ids in by_document.items():
        whole = len(section_ids) == sizes[document_id]
        names.extend([document_id] if whole else section_ids)
    return names
