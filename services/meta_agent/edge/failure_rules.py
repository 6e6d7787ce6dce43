"""Rules for a job's failure rules: what is wrong with them, field by field. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hma.rpc.validation import Violations
from hma.v1 import common_pb2, job_pb2
from services.meta_agent.edge import limits as bounds
from services.meta_agent.edge.plan_validation import check_count


def check_failure_rules(
    field: str, rules: Sequence[job_pb2.FailureRule], faults: Violations
) -> None:
    """Notes classes that are named twice, and numbers of tries that cannot be.

    That class and action are set and known is checked before (`hma.rpc.validation`).
    """
    seen: set[int] = set()
    for index, rule in enumerate(rules):
        if rule.failure_class and rule.failure_class in seen:
            name = common_pb2.FailureClass.Name(rule.failure_class)
            faults.add(f"{field}[{index}].failure_class", f"{name} has a rule already")
        seen.add(rule.failure_class)
        check_count(
            f"{field}[{index}].max_attempts", rule.max_attempts, bounds.MAX_ATTEMPTS, faults
        )
