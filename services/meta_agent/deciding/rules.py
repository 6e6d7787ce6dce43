"""What deciding needs to know besides the job: routes and the operator's limits."""

from __future__ import annotations

from dataclasses import dataclass

from hma.llm.routes import Route, Routes
from hma.v1 import attempt_pb2, job_pb2
from services.meta_agent.deciding.history import NOTHING_KNOWN, History
from services.meta_agent.job.state import JobFold


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Limits of deciding. Times in seconds, tokens in tokens.

    Attributes:
        max_attempts: Tries per task when the job does not say.
        task_timeout: Limit of one attempt when the task does not say.
        plan_timeout: Limit of one planning attempt.
        analyst_share: Most of the budget that planning may cost, 0 to 1.
        max_plan_tasks: Most tasks of one job.
        stop_grace: How long a stopped attempt may take to report before it is lost.
        report_grace: How long a broken stream's result is waited for: the
            service's heartbeat limit (3 s) plus a margin for its report.
        reduce_time: Time kept free before the deadline to make the answer, besides the
            time that prose takes.
        answer_tokens: Most completion tokens of the Reducer's prose.
        safe_context: Share of a route's context that documents may fill.
        backoff_base, backoff_max: Wait before the next try at a task.
        straggler_factor: How many times the measured 95 % quantile an attempt may take,
            while others wait for it.
        straggler_least: Seconds that any attempt may take.
        min_gain_per_1000_tokens: With adaptive halting: answered items per 1,000 tokens
            below which another round is not worth it, when the job does not say.
        history: What calls and answers have cost and been worth so far.
    """

    routes: Routes
    max_attempts: int = 3
    task_timeout: float = 120.0
    plan_timeout: float = 60.0
    analyst_share: float = 0.15
    max_plan_tasks: int = 500
    stop_grace: float = 5.0
    report_grace: float = 5.0
    reduce_time: float = 5.0
    answer_tokens: int = 800
    safe_context: float = 0.5
    backoff_base: float = 0.25
    backoff_max: float = 5.0
    straggler_factor: float = 3.0
    straggler_least: float = 5.0
    min_gain_per_1000_tokens: float = 0.5
    history: History = NOTHING_KNOWN

    def route(self, name: str) -> Route:
        """The route of that name, or the default one when there is none."""
        return self.routes.get(name) or self.routes.default

    def job_route(self, fold: JobFold) -> Route:
        """The route that a job's shape and estimates are made for."""
        return self.route(fold.created.policy.route)

    def attempts_allowed(self, fold: JobFold) -> int:
        """Tries per task."""
        return fold.created.policy.max_attempts or self.max_attempts

    def cost(self, call: attempt_pb2.CallUsage) -> float:
        """Money for one call at its route's prices."""
        usage = call.usage
        return self.route(call.route).cost(
            prompt=usage.prompt_tokens,
            cached_prompt=usage.cached_prompt_tokens,
            completion=usage.completion_tokens,
        )


def is_on(switch: job_pb2.Switch.ValueType) -> bool:
    """Whether a policy switch is on; unset means on."""
    return switch != job_pb2.SWITCH_OFF
