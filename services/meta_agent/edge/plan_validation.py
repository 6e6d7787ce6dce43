"""Rules for a plan that a client sends instead of having the Analyst make one.

What is REQUIRED by the protos is checked before (`hma.rpc.validation`).
"""

from __future__ import annotations

import graphlib
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from hma.rpc.validation import Violations
from hma.text.unseen import MOST_MARKS, find_mark_flood, normalized
from hma.v1 import task_pb2
from services.meta_agent.edge.output_schema import find_schema_faults
from services.meta_agent.edge.quoting import quote

MAX_TITLE_CHARS = 200
MAX_INSTRUCTION_CHARS = 8_000
MAX_ROLE_CHARS = 200
MAX_ITEMS = 200
MAX_PLAN_ITEMS = 5_000
MAX_ITEM_CHARS = 8_000

TOOLS = frozenset({"search_documents", "read_section", "calculate"})
"""Tools that a Worker has. They are part of the contract with plans: see task.proto."""

RESERVED_TASK_IDS = frozenset({"plan", "reduce"})
"""Names under which timings and progress list planning and reducing."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_REFERENCE_CHARS = 300
"""Longer than any name of a document with a section's number."""

_MAX_CYCLES = 5
_MAX_CYCLE_SHOWN = 8


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What a plan may refer to.

    Attributes:
        documents: Names (in NFC) and ids of the job's documents.
        routes: Names of the configured routes.
        max_tasks: Most tasks of a plan.
        max_tokens: Largest number of tokens that a task may name.
        max_timeout: Longest timeout of a task, in seconds.
    """

    documents: Collection[str]
    routes: Collection[str]
    max_tasks: int
    max_tokens: int
    max_timeout: float


def check_plan(plan: task_pb2.Plan, path: str, context: PlanContext, faults: Violations) -> None:
    """Notes everything that is wrong with `plan`, which stands at `path`."""
    tasks = plan.tasks
    if len(tasks) > context.max_tasks:
        faults.add(
            f"{path}.tasks", f"at most {context.max_tasks:,} tasks are allowed, got {len(tasks):,}"
        )
        return
    _check_ids(tasks, path, faults)
    _check_items(tasks, path, faults)
    for index, task in enumerate(tasks):
        _check_task(task, f"{path}.tasks[{index}]", context, faults)
    _check_dependencies(tasks, path, faults)


def _check_ids(tasks: Sequence[task_pb2.Task], path: str, faults: Violations) -> None:
    first: dict[str, int] = {}
    for index, task in enumerate(tasks):
        field = f"{path}.tasks[{index}].id"
        if not task.id:
            continue
        if not _IDENTIFIER.fullmatch(task.id):
            faults.add(field, "must be 1 to 64 letters, digits, '-', '_' and '.'")
        elif task.id in RESERVED_TASK_IDS:
            faults.add(field, f"{quote(task.id)} is reserved; choose another id")
        elif task.id in first:
            faults.add(field, f"{quote(task.id, 64)} is also the id of tasks[{first[task.id]}]")
        first.setdefault(task.id, index)


def _check_items(tasks: Sequence[task_pb2.Task], path: str, faults: Violations) -> None:
    seen: set[str] = set()
    together = sum(len(task.items) for task in tasks)
    if together > MAX_PLAN_ITEMS:
        faults.add(
            f"{path}.tasks",
            f"at most {MAX_PLAN_ITEMS:,} items are allowed in all tasks, got {together:,}",
        )
        return
    for index, task in enumerate(tasks):
        field = f"{path}.tasks[{index}].items"
        if len(task.items) > MAX_ITEMS:
            faults.add(field, f"at most {MAX_ITEMS} items are allowed, got {len(task.items):,}")
            continue
        for number, item in enumerate(task.items):
            if not _IDENTIFIER.fullmatch(item.item_id):
                faults.add(
                    f"{field}[{number}].item_id",
                    "must be 1 to 64 letters, digits, '-', '_' and '.'",
                )
            elif item.item_id in seen:
                faults.add(
                    f"{field}[{number}].item_id",
                    f"{quote(item.item_id, 64)} is used twice; item ids are unique in the plan",
                )
            seen.add(item.item_id)
            faults.require(item.text, f"{field}[{number}].text", "must not be empty")
            check_words(f"{field}[{number}].text", item.text, MAX_ITEM_CHARS, faults)


def _check_task(task: task_pb2.Task, field: str, context: PlanContext, faults: Violations) -> None:
    check_text(f"{field}.title", task.title, MAX_TITLE_CHARS, faults)
    check_text(f"{field}.role", task.role, MAX_ROLE_CHARS, faults)
    check_words(f"{field}.instruction", task.instruction, MAX_INSTRUCTION_CHARS, faults)
    for number, named in enumerate(task.documents):
        document = normalized(named[:_MAX_REFERENCE_CHARS])
        # A section ("d1#3") is looked up when the documents have been divided.
        if document not in context.documents and (
            document.rpartition("#")[0] not in context.documents
        ):
            faults.add(
                f"{field}.documents[{number}]", f"the job has no document {quote(document, 64)}"
            )
    if task.output_schema:
        for fault in find_schema_faults(task.output_schema):
            faults.add(f"{field}.output_schema", fault)
    if task.HasField("timeout"):
        check_duration(f"{field}.timeout", task.timeout, context.max_timeout, faults)
    check_count(f"{field}.max_tokens", task.max_tokens, context.max_tokens, faults)
    check_count(f"{field}.max_result_tokens", task.max_result_tokens, context.max_tokens, faults)
    check_money(f"{field}.max_cost", task.max_cost, faults)
    check_route(f"{field}.route", task.route, context.routes, faults)
    for number, tool in enumerate(task.tools):
        if tool not in TOOLS:
            known = ", ".join(sorted(TOOLS))
            faults.add(f"{field}.tools[{number}]", f"no tool {quote(tool)}; there are: {known}")


def _check_dependencies(tasks: Sequence[task_pb2.Task], path: str, faults: Violations) -> None:
    position = {task.id: index for index, task in reversed(list(enumerate(tasks)))}
    graph: dict[str, dict[str, int]] = {}
    for index, task in enumerate(tasks):
        known = graph.setdefault(task.id, {})
        for number, dependency in enumerate(task.depends_on):
            field = f"{path}.tasks[{index}].depends_on[{number}]"
            if dependency not in position:
                faults.add(field, f"the plan has no task {quote(dependency, 64)}")
            elif dependency in known:
                faults.add(field, f"{quote(dependency, 64)} is named twice")
            else:
                known[dependency] = number
    for cycle in find_cycles({name: list(known) for name, known in graph.items()}):
        field = f"{path}.tasks[{position[cycle[0]]}].depends_on[{graph[cycle[0]][cycle[1]]}]"
        faults.add(
            field,
            f"tasks depend on each other in a circle: {_show_cycle(cycle)}; a task can "
            "only depend on tasks that end before it starts",
        )


def find_cycles(graph: dict[str, list[str]]) -> Iterator[list[str]]:
    """Circles of dependencies, a few at most.

    Args:
        graph: What each task depends on.

    Yields:
        Ids along a circle, each depending on the next; the last is the first again.
    """
    remaining = {name: list(needs) for name, needs in graph.items()}
    for _ in range(_MAX_CYCLES):
        try:
            graphlib.TopologicalSorter(remaining).prepare()
        except graphlib.CycleError as error:
            # The library lists predecessors first: turned round, each depends on the next.
            circle: list[str] = list(reversed(error.args[1]))[:-1]
            start = circle.index(min(circle))
            cycle = [*circle[start:], *circle[:start], circle[start]]
            remaining[cycle[0]].remove(cycle[1])
            yield cycle
        else:
            return


def _show_cycle(cycle: Sequence[str]) -> str:
    shown = [name[:20] for name in cycle]
    if len(shown) > _MAX_CYCLE_SHOWN + 1:
        left_out = len(shown) - _MAX_CYCLE_SHOWN
        shown = [*shown[: _MAX_CYCLE_SHOWN - 1], f"({left_out} more)", shown[-1]]
    return ascii(" -> ".join(shown))[1:-1]


def check_text(field: str, text: str, limit: int, faults: Violations) -> None:
    """Notes text that is too long, or not text."""
    faults.at_most(text, limit, field)
    faults.require("\x00" not in text, field, "must be text: it holds a NUL character")
    flood = find_mark_flood(text)
    if flood is not None:
        faults.add(field, mark_fault(flood))


def mark_fault(offset: int) -> str:
    """What is said of a flood of marks."""
    return f"has more than {MOST_MARKS} combining marks in a row at character {offset:,}"


def check_words(field: str, text: str, limit: int, faults: Violations) -> None:
    """Notes text that is blank, too long, or not text. Empty text is noted elsewhere."""
    faults.require(not text or text.strip(), field, "must not be blank")
    check_text(field, text, limit, faults)


def check_duration(field: str, duration: Duration, limit: float, faults: Violations) -> None:
    """Notes a duration that is malformed, not above zero, or longer than `limit` seconds."""
    seconds = seconds_of(duration)
    if seconds is None:
        faults.add(field, "is not a duration: seconds and nanos must be in range and agree in sign")
    elif seconds <= 0:
        faults.add(field, f"must be more than 0 s, is {seconds:g} s")
    elif seconds > limit:
        faults.add(field, f"must be at most {limit:g} s, is {seconds:g} s")


def check_count(field: str, value: int, limit: int, faults: Violations) -> None:
    """Notes a number of tokens that cannot be; 0 means not set."""
    if not 0 <= value <= limit:
        faults.add(field, f"must be 0 (not set) to {limit:,}, is {value:,}")


def check_money(field: str, value: float, faults: Violations) -> None:
    """Notes an amount of money that cannot be; 0 means no limit."""
    if not math.isfinite(value) or value < 0:
        faults.add(field, "must be a finite number, 0 (no limit) or more")


def check_route(field: str, route: str, routes: Collection[str], faults: Violations) -> None:
    """Notes a route that is not configured; empty means chosen by HMA."""
    if route and route not in routes:
        known = ", ".join(sorted(routes))
        faults.add(field, f"no route {quote(route)}; there are: {known}")


def seconds_of(duration: Duration) -> float | None:
    """A duration in seconds; None when it is malformed."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(nanos) > 999_999_999 or abs(seconds) > 315_576_000_000 or seconds * nanos < 0:
        return None
    return float(seconds + nanos / 1e9)
