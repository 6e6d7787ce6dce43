"""Rules for requests of the public API. Pure: everything that is wrong, field by field.

Each `check_…` raises `InvalidRequest` with all violations. A job id that cannot be
one is `NotFound`: no such job exists, and a client need not know how ids are made.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from hma.errors import NotFound
from hma.rpc.validation import Violations, check
from hma.text.unseen import UNSEEN
from hma.v1 import job_pb2, meta_agent_pb2
from services.meta_agent.edge import limits as bounds
from services.meta_agent.edge.documents import check_documents, document_names
from services.meta_agent.edge.failure_rules import check_failure_rules
from services.meta_agent.edge.limits import Limits
from services.meta_agent.edge.plan_validation import (
    PlanContext,
    check_count,
    check_duration,
    check_money,
    check_plan,
    check_route,
    check_text,
    check_words,
    seconds_of,
)
from services.meta_agent.store.ids import is_job_id

# 10000-01-01T00:00:00Z, in seconds since 1970.
_YEAR_10000 = 253_402_300_800


@dataclass(frozen=True, slots=True)
class Validator:
    """Checks requests against the settings of this MetaAgent.

    Attributes:
        limits: What is accepted at most.
        routes: Names of the configured routes.
    """

    limits: Limits
    routes: Collection[str]

    def check_create_job(self, request: meta_agent_pb2.CreateJobRequest) -> None:
        """Checks a request for a job, its documents and its plan.

        Raises:
            InvalidRequest: With every violation.
        """
        faults = _begin(request)
        _check_request_id(request.request_id, faults)
        self._check_wait(request, faults)
        if not request.HasField("job"):
            faults.raise_if_any()
        spec = request.job
        check_words(
            "job.task_description",
            spec.task_description,
            self.limits.max_description_chars,
            faults,
        )
        check_documents(spec, self.limits, faults)
        self._check_budget(spec, faults)
        self._check_policy(spec.policy, faults)
        if spec.HasField("plan"):
            check_plan(spec.plan, "job.plan", self._plan_context(spec), faults)
        faults.raise_if_any()

    def check_get_job(self, request: meta_agent_pb2.GetJobRequest) -> None:
        """Checks a request for a job as it is.

        Raises:
            InvalidRequest: With every violation.
            NotFound: The id cannot be one.
        """
        faults = _begin(request)
        self._check_wait(request, faults)
        faults.raise_if_any()
        check_job_id(request.job_id)

    def check_explain_job(self, request: meta_agent_pb2.ExplainJobRequest) -> None:
        """Checks a request for the reasons behind a job.

        Raises:
            InvalidRequest: With every violation.
            NotFound: The id cannot be one.
        """
        _begin(request).raise_if_any()
        check_job_id(request.job_id)

    def check_list_jobs(self, request: meta_agent_pb2.ListJobsRequest) -> None:
        """Checks a request for a page of jobs; the token itself is the store's to read.

        Raises:
            InvalidRequest: With every violation.
        """
        faults = _begin(request)
        if not 0 <= request.page_size <= bounds.MAX_PAGE_SIZE:
            faults.add(
                "page_size",
                f"must be 0 (for {bounds.DEFAULT_PAGE_SIZE}) to {bounds.MAX_PAGE_SIZE}, "
                f"is {request.page_size:,}",
            )
        for index, state in enumerate(request.states):
            if state == job_pb2.JOB_STATE_UNSPECIFIED:
                faults.add(f"states[{index}]", "must be a state; leave the list empty for all")
        faults.raise_if_any()

    def check_watch_job(self, request: meta_agent_pb2.WatchJobRequest) -> None:
        """Checks a request to follow a job.

        Raises:
            InvalidRequest: With every violation.
            NotFound: The id cannot be one.
        """
        faults = _begin(request)
        if request.after_sequence < 0:
            faults.add("after_sequence", f"must be 0 or more, is {request.after_sequence:,}")
        faults.raise_if_any()
        check_job_id(request.job_id)

    def check_command(
        self,
        request: meta_agent_pb2.CancelJobRequest
        | meta_agent_pb2.InterruptJobRequest
        | meta_agent_pb2.DeleteJobRequest,
    ) -> None:
        """Checks a request to cancel, interrupt or delete a job.

        Raises:
            InvalidRequest: With every violation.
            NotFound: The id cannot be one.
        """
        faults = _begin(request)
        _check_request_id(request.request_id, faults)
        if not isinstance(request, meta_agent_pb2.DeleteJobRequest):
            check_text("reason", request.reason, bounds.MAX_REASON_CHARS, faults)
        faults.raise_if_any()
        check_job_id(request.job_id)

    def check_grant_budget(self, request: meta_agent_pb2.GrantBudgetRequest) -> None:
        """Checks a request to add budget; whether the sum fits is the job's matter.

        Raises:
            InvalidRequest: With every violation.
            NotFound: The id cannot be one.
        """
        faults = _begin(request)
        _check_request_id(request.request_id, faults)
        if request.tokens and not 1 <= request.tokens <= self.limits.max_budget_tokens:
            faults.add("tokens", self._tokens_fault(request.tokens))
        if not math.isfinite(request.cost) or request.cost < 0:
            faults.add("cost", "must be a finite amount of money above 0, or 0 with tokens")
        if not request.tokens and not request.cost:
            faults.add(
                "tokens",
                f"must be set, or cost: 1 to {self.limits.max_budget_tokens:,} tokens, or money",
            )
        faults.raise_if_any()
        check_job_id(request.job_id)

    def check_get_usage(self, request: meta_agent_pb2.GetUsageRequest) -> None:
        """Checks a request for sums of the ledger; the token itself is the store's to read.

        Raises:
            InvalidRequest: With every violation.
        """
        faults = _begin(request)
        if not 0 <= request.page_size <= bounds.MAX_USAGE_PAGE_SIZE:
            faults.add(
                "page_size",
                f"must be 0 (for {bounds.DEFAULT_USAGE_PAGE_SIZE}) to "
                f"{bounds.MAX_USAGE_PAGE_SIZE:,}, is {request.page_size:,}",
            )
        for index, grouping in enumerate(request.by):
            if grouping == meta_agent_pb2.USAGE_GROUPING_UNSPECIFIED:
                faults.add(f"by[{index}]", "must be a grouping; leave the list empty for one sum")
            elif grouping in request.by[:index]:
                faults.add(f"by[{index}]", "is named twice")
        times = [
            check_time(name, getattr(request, name), faults)
            for name in ("start_time", "end_time")
            if request.HasField(name)
        ]
        if (
            len(times) == 2
            and all(times)
            and request.end_time.ToNanoseconds() <= (request.start_time.ToNanoseconds())
        ):
            faults.add("end_time", "must lie after start_time")
        faults.raise_if_any()

    def _check_wait(
        self,
        request: meta_agent_pb2.CreateJobRequest | meta_agent_pb2.GetJobRequest,
        faults: Violations,
    ) -> None:
        if not request.HasField("wait"):
            return
        seconds = seconds_of(request.wait)
        limit = self.limits.max_wait
        if seconds is None:
            faults.add("wait", "is not a duration")
        elif not 0 <= seconds <= limit:
            faults.add("wait", f"must be 0 s to {limit:g} s, is {seconds:g} s")

    def _check_budget(self, spec: job_pb2.JobSpec, faults: Violations) -> None:
        short, long = spec.total_budget_tokens, spec.budget.max_tokens
        if short and long and short != long:
            faults.add(
                "job.total_budget_tokens",
                f"is {short:,}, but job.budget.max_tokens is {long:,}: set one of them",
            )
        if not short and not long and not spec.budget.max_cost:
            field = (
                "job.budget.max_tokens" if spec.HasField("budget") else "job.total_budget_tokens"
            )
            faults.add(
                field,
                f"must be set, or job.budget.max_cost: 1 to {self.limits.max_budget_tokens:,} "
                "tokens, or money",
            )
        for field, value in (("job.total_budget_tokens", short), ("job.budget.max_tokens", long)):
            if value and not 1 <= value <= self.limits.max_budget_tokens:
                faults.add(field, self._tokens_fault(value))
        check_money("job.budget.max_cost", spec.budget.max_cost, faults)
        if spec.budget.HasField("deadline"):
            _check_deadline(spec.budget.deadline, self.limits.max_deadline, faults)

    def _tokens_fault(self, value: int) -> str:
        return f"must be 1 to {self.limits.max_budget_tokens:,} tokens, is {value:,}"

    def _check_policy(self, policy: job_pb2.JobPolicy, faults: Violations) -> None:
        for name, value, limit in (
            ("max_rounds", policy.max_rounds, bounds.MAX_ROUNDS),
            ("max_attempts", policy.max_attempts, bounds.MAX_ATTEMPTS),
        ):
            check_count(f"job.policy.{name}", value, limit, faults)
        gain = policy.min_gain_per_1000_tokens
        if not (math.isfinite(gain) and gain >= 0):
            faults.add("job.policy.min_gain_per_1000_tokens", f"must be 0 or more, is {gain:g}")
        if policy.HasField("layer_timeout"):
            check_duration(
                "job.policy.layer_timeout", policy.layer_timeout, self.limits.max_deadline, faults
            )
        check_route("job.policy.route", policy.route, self.routes, faults)
        if not -bounds.MAX_PRIORITY <= policy.priority <= bounds.MAX_PRIORITY:
            faults.add(
                "job.policy.priority",
                f"must be -{bounds.MAX_PRIORITY} to {bounds.MAX_PRIORITY}, is {policy.priority:,}",
            )
        check_failure_rules("job.policy.failure_rules", policy.failure_rules, faults)

    def _plan_context(self, spec: job_pb2.JobSpec) -> PlanContext:
        return PlanContext(
            documents=document_names(spec),
            routes=self.routes,
            max_tasks=self.limits.max_plan_tasks,
            max_tokens=self.limits.max_budget_tokens,
            max_timeout=self.limits.max_deadline,
        )


def check_job_id(job_id: str) -> None:
    """Refuses what cannot be a job's id.

    Raises:
        NotFound: It cannot.
    """
    if not is_job_id(job_id):
        raise NotFound("There is no job with this id.")


def _begin(request: Message) -> Violations:
    return Violations(check(request))


def _check_request_id(request_id: str, faults: Violations) -> None:
    if len(request_id) > bounds.MAX_REQUEST_ID_CHARS:
        faults.add(
            "request_id",
            f"must have at most {bounds.MAX_REQUEST_ID_CHARS} characters, has {len(request_id):,}",
        )
    elif "\n" in request_id or UNSEEN.search(request_id):
        faults.add("request_id", "must not hold control characters, or ones that are not seen")


def check_time(field: str, time: Timestamp, faults: Violations) -> bool:
    """Whether it is a moment of the years 1970 to 9999, which a calendar can tell."""
    if 0 <= time.seconds < _YEAR_10000 and 0 <= time.nanos < 1_000_000_000:
        return True
    faults.add(field, "must be a time of the years 1970 to 9999")
    return False


def _check_deadline(deadline: Duration, limit: float, faults: Violations) -> None:
    seconds = seconds_of(deadline)
    if seconds is not None and seconds <= 0:
        faults.add(
            "job.budget.deadline",
            f"lies in the past: it is the time until the answer must be there, is {seconds:g} s",
        )
    else:
        check_duration("job.budget.deadline", deadline, limit, faults)
