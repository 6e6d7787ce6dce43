"""A scripted MetaAgent: drives one attempt over real gRPC and decides its grants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hma.rpc.attempt_stream import AttemptStream, Finished
from hma.v1 import analyst_pb2, attempt_pb2

Grants = Callable[[attempt_pb2.CallIntent], attempt_pb2.Grant]


def pay(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
    """Grants all that is asked for."""
    tokens = intent.prompt_tokens + intent.max_completion_tokens
    return attempt_pb2.Grant(call=intent.call, tokens=tokens)


def deny(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
    """Grants nothing."""
    return attempt_pb2.Grant(call=intent.call, denied=True, reason="the purse is empty")


def least(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
    """Grants the least that the call is worth."""
    tokens = intent.prompt_tokens + intent.min_completion_tokens
    return attempt_pb2.Grant(call=intent.call, tokens=tokens)


def only_first(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
    """Pays for the first call."""
    return pay(intent) if intent.call == 1 else deny(intent)


def attempt_start(task_uid: str, *, seconds: int = 20, route: str = "") -> attempt_pb2.AttemptStart:
    """An attempt with a fixed name."""
    start = attempt_pb2.AttemptStart(
        ref=attempt_pb2.AttemptRef(job_id="job-1", epoch=1, task_uid=task_uid, attempt=1),
        route=route,
    )
    start.time_left.FromSeconds(seconds)
    return start


@dataclass
class Run:
    """What a service said on one attempt."""

    fragments: list[analyst_pb2.PlanFragment] = field(default_factory=list)
    intents: list[attempt_pb2.CallIntent] = field(default_factory=list)
    text: str = ""
    phases: list[str] = field(default_factory=list)
    result: attempt_pb2.AttemptResult = field(default_factory=attempt_pb2.AttemptResult)


async def drive(
    stream: AttemptStream[Any],
    *,
    grants: Grants = pay,
    stop_when: Callable[[Run], bool] | None = None,
    reason: attempt_pb2.StopReason.ValueType = attempt_pb2.STOP_REASON_INTERRUPT,
) -> Run:
    """Drives an attempt to its end; stops it once when `stop_when` holds."""
    run = Run()
    stopped = False
    async with stream:
        async for item in stream:
            if isinstance(item, attempt_pb2.CallIntent):
                run.intents.append(item)
                stream.grant(grants(item))
            elif isinstance(item, analyst_pb2.PlanFragment):
                run.fragments.append(item)
            else:
                assert item.offset == len(run.text)
                run.text += item.text
                run.phases.append(item.phase)
            if stop_when is not None and not stopped and stop_when(run):
                stopped = True
                stream.stop(reason)
        assert isinstance(stream.outcome, Finished), stream.outcome
        run.result = stream.outcome.result
        stream.ack()
    return run
