"""Where a job's tokens are, as clients see it."""

from __future__ import annotations

from hma.v1 import job_pb2
from services.meta_agent.deciding.budget import purse_of
from services.meta_agent.deciding.money import held_money
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import JobFold


def ledger_of(
    fold: JobFold, rules: Rules, *, rows: bool = False, settled: bool = False
) -> job_pb2.Ledger:
    """The receipt as it stands.

    Args:
        fold: The job.
        rules: For what is held back while the job runs.
        rows: Whether each call is listed.
        settled: Whether the job is over, so that nothing is held back any more.
    """
    ledger = job_pb2.Ledger(
        budget_tokens=fold.budget,
        spent_tokens=fold.spent,
        unknown_tokens=fold.unknown,
        outstanding_tokens=fold.outstanding,
        reserved_tokens=0 if settled else purse_of(fold, rules).reserved,
        cost=fold.cost,
        max_cost=fold.max_cost,
        outstanding_cost=held_money(fold, rules),
    )
    for row in fold.rows:
        usage = row.call.usage
        ledger.prompt_tokens += usage.prompt_tokens
        ledger.cached_prompt_tokens += usage.cached_prompt_tokens
        ledger.completion_tokens += usage.completion_tokens
        ledger.reasoning_tokens += usage.reasoning_tokens
    if rows:
        ledger.rows.extend(fold.rows)
    return ledger
