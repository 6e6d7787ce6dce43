"""Ten jobs of different kinds, and the client that brings them in whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import grpc

import hma
from hma.client import requests
from hma.errors import PreconditionFailed, Unavailable
from hma.rpc.status import from_rpc_error
from hma.v1 import job_pb2, meta_agent_pb2, task_pb2

T = TypeVar("T")
Command = Literal["", "grant", "interrupt", "cancel"]

PATIENCE = 90.0
"""Seconds in which a client that keeps trying must get its answer."""

MILLS = ("mills.md", "# Mills\n\nThe mill was built in 1764. Anna Hale paid for it.\n" * 8)

SCRIPT: list[dict[str, Any]] = [
    {
        "purpose": "PLAN",
        "contains": "Compare the mills",
        "reply": {
            "json": {
                "brief": {
                    "objective": "Compare the mills.",
                    "audience": "",
                    "constraints": [],
                    "acceptance": [],
                    "dropped": [],
                },
                "shape": "team",
                "n": 3,
                "tasks": [
                    {"do": "List years.", "in": [], "after": [], "size": "low", "kind": "extract"},
                    {"do": "List owners.", "in": [], "after": [], "size": "low", "kind": "extract"},
                    {"do": "Compare.", "in": [], "after": [1, 2], "size": "high", "kind": "write"},
                ],
            }
        },
    },
    {
        "purpose": "REDUCE",
        "reply": {"text": "The mill was built in 1764, and Anna Hale paid for it. " * 4},
    },
]
"""What the model says besides values of the schemas that it is given."""


@dataclass(frozen=True)
class Order:
    """A job to be brought in.

    Attributes:
        name: What kind it is.
        options: For `hma.client.requests.create_job`.
        command: What its client wants of it later.
        after: Seconds after it was accepted at which that is.
    """

    name: str
    task: str
    options: dict[str, Any]
    command: Command = ""
    after: float = 0.0


@dataclass
class Taken:
    """An order whose job was accepted.

    Attributes:
        job_id: Its job.
        seen: Sequence numbers that a watcher saw, in order.
        obeyed: Whether its command was taken, or the job had ended before.
    """

    order: Order
    job_id: str
    seen: list[int] = field(default_factory=list)
    obeyed: bool = False


def orders(seed: int, deadline: float) -> list[Order]:
    """Ten orders of different kinds.

    Args:
        seed: Decides their sizes and moments.
        deadline: Of each job, in seconds.
    """
    chance = random.Random(f"jobs {seed}")
    documents = [MILLS]

    def order(name: str, task: str, command: Command = "", **options: Any) -> Order:
        options = {"documents": documents, "budget": 60_000, "deadline": deadline, **options}
        return Order(name, task, options, command, chance.uniform(0.1, 5.0))

    def questions(least: int, most: int) -> str:
        count = chance.randint(least, most)
        lines = (f"{n}. In which year was mill number {n} built?" for n in range(1, count + 1))
        return "Answer these questions:\n" + "\n".join(lines)

    waves = job_pb2.JobPolicy(dispatch=job_pb2.DISPATCH_WAVES)
    return [
        order("questions", questions(2, 5)),
        order("team", questions(4, 9), shape="team"),
        order("single", questions(2, 4), shape="single"),
        order("prose", "Compare the mills and recommend one to buy.", shape="team"),
        order("diamond", "Find it out.", plan=_diamond()),
        order("chain", "Do one after the other.", plan=chain(chance.randint(3, 5))),
        order("waves", "Do it in waves.", plan=_diamond(), policy=waves),
        order("grant", questions(4, 8), "grant", shape="team", budget=chance.randint(4000, 9000)),
        order("interrupt", questions(5, 9), "interrupt", shape="team"),
        order("cancel", "Find it out, or not.", "cancel", plan=chain(5)),
    ]


def _diamond() -> task_pb2.Plan:
    plan = task_pb2.Plan()
    for name, after in (("top", []), ("left", ["top"]), ("right", ["top"]), ("end", ["left"])):
        task = plan.tasks.add(id=name, instruction=f"Work on {name}.", depends_on=after)
        task.items.add(item_id=f"{name}.1", text=f"What about {name}?")
    plan.tasks[3].depends_on.append("right")
    return plan


def chain(length: int) -> task_pb2.Plan:
    """A plan of so many tasks, each after the one before."""
    plan = task_pb2.Plan()
    for n in range(1, length + 1):
        before = [f"s{n - 1}"] if n > 1 else []
        plan.tasks.add(id=f"s{n}", instruction=f"Take step {n}.", depends_on=before)
    return plan


async def place(client: hma.AsyncClient, order: Order, start: float, patience: float) -> Taken:
    """Brings a job in, at a moment after the start, and sees to its command."""
    await asyncio.sleep(start)
    # One request, one id: however often it is sent, there is one job.
    options = {**order.options, "request_id": requests.new_request_id()}
    job_id = await insist(lambda: client.submit(order.task, **options), patience)
    return Taken(order, job_id)


async def command(stub: Any, taken: Taken, patience: float) -> None:
    """Sends the order's command once its moment has come."""
    order = taken.order
    if not order.command:
        return
    await asyncio.sleep(order.after)
    ids: dict[str, Any] = {"job_id": taken.job_id, "request_id": requests.new_request_id()}
    request: Any
    if order.command == "grant":
        request, call = meta_agent_pb2.GrantBudgetRequest(tokens=5000, **ids), stub.GrantBudget
    elif order.command == "interrupt":
        request, call = meta_agent_pb2.InterruptJobRequest(**ids), stub.InterruptJob
    else:
        request, call = meta_agent_pb2.CancelJobRequest(**ids), stub.CancelJob
    with contextlib.suppress(PreconditionFailed):  # it had ended before
        await insist(lambda: _typed(call(request, timeout=30)), patience)
    taken.obeyed = True


async def watch(client: hma.AsyncClient, taken: Taken, patience: float) -> None:
    """Watches the job to its end, resuming behind the last event that was seen."""

    async def go_on() -> None:
        after = taken.seen[-1] if taken.seen else 0
        async for update in client.watch(taken.job_id, after=after):
            if update.HasField("event"):
                taken.seen.append(update.event.sequence)

    whole = patience and patience + float(taken.order.options["deadline"])
    await insist(go_on, whole)


async def insist(call: Callable[[], Awaitable[T]], patience: float) -> T:
    """Calls again while the system is away, as a stubborn client does."""
    end = time.monotonic() + patience
    while True:
        try:
            return await call()
        except Unavailable:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2)


async def _typed(call: Awaitable[T]) -> T:
    """A call of a stub, with the client's own errors."""
    try:
        return await call
    except grpc.RpcError as error:
        failure = from_rpc_error(error)
        late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        raise (Unavailable(failure.message) if late else failure) from error
