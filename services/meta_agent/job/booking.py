"""The receipt: which rows an event adds. Each call is booked once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import zip_longest

from hma.v1 import attempt_pb2, job_pb2
from services.meta_agent.job.frozen_maps import put
from services.meta_agent.job.state import AttemptFold, JobFold, tokens_of


def unknown_row(attempt: AttemptFold, event: job_pb2.JobEvent, tokens: int) -> job_pb2.LedgerRow:
    """What became unknown, or (below 0) known after all."""
    kind = job_pb2.LEDGER_ROW_KIND_UNKNOWN
    if tokens < 0:
        kind = job_pb2.LEDGER_ROW_KIND_RECONCILIATION
    return job_pb2.LedgerRow(
        task_uid=attempt.uid,
        attempt=attempt.number,
        role=attempt.role,
        kind=kind,
        unknown_tokens=tokens,
        settle_time=event.time,
    )


def settle_calls(
    fold: JobFold,
    event: job_pb2.JobEvent,
    attempt: AttemptFold,
    calls: Iterable[attempt_pb2.CallUsage],
    costs: Iterable[float],
) -> JobFold:
    """Books each call once, however often it is reported."""
    rows: list[job_pb2.LedgerRow] = []
    settled = set(attempt.settled)
    for call, cost in zip_longest(calls, costs, fillvalue=None):
        if call is None or call.call in settled:
            continue
        settled.add(call.call)
        rows.append(
            job_pb2.LedgerRow(
                task_uid=attempt.uid,
                attempt=attempt.number,
                role=attempt.role,
                call=call,
                cost=cost or 0.0,
                kind=job_pb2.LEDGER_ROW_KIND_CALL,
                settle_time=event.time,
            )
        )
    if not rows:
        return fold
    spent = sum(tokens_of(row.call.usage) for row in rows)
    cost = sum(row.cost for row in rows)
    booked = replace(
        attempt,
        settled=frozenset(settled),
        spent=attempt.spent + spent,
        cost=attempt.cost + cost,
        failed_calls=attempt.failed_calls + sum(r.call.finish_reason == "error" for r in rows),
        # What was announced is for the call that is booked now.
        prompt_tokens=0,
    )
    return replace(
        fold,
        spent=fold.spent + spent,
        cost=fold.cost + cost,
        rows=(*fold.rows, *rows),
        attempts=put(fold.attempts, attempt.key, booked),
    )
