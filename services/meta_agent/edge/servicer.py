"""The public API: requests in, jobs out. Rules are elsewhere; this is the edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from hma.errors import AlreadyExists, InvalidRequest, NotFound, PreconditionFailed
from hma.llm.routes import Routes
from hma.telemetry import logs
from hma.v1 import admin_pb2, explanation_pb2, job_pb2, meta_agent_pb2, meta_agent_pb2_grpc
from services.meta_agent.access.caller import known_caller
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.edge.admission import Admission, Admitted
from services.meta_agent.edge.admission_process import AdmissionDesk, Work
from services.meta_agent.edge.door import Door
from services.meta_agent.edge.explaining.story import Story
from services.meta_agent.edge.explanation import explanation_of
from services.meta_agent.edge.limits import DEFAULT_PAGE_SIZE, DEFAULT_USAGE_PAGE_SIZE
from services.meta_agent.edge.money import check_money_grant, tokens_with_money
from services.meta_agent.edge.projection import listed, project
from services.meta_agent.edge.quota import get_quota
from services.meta_agent.edge.reader import JobReader
from services.meta_agent.edge.requests import Command, check_same, differing_jobs, event_id_of
from services.meta_agent.edge.stalling import Stalling
from services.meta_agent.edge.status import StatusBoard
from services.meta_agent.edge.validation import Validator
from services.meta_agent.edge.watch import Watches
from services.meta_agent.job.times import timestamp
from services.meta_agent.store.creation import Created, RequestIdReused
from services.meta_agent.store.ids import new_event_id, new_job_id
from services.meta_agent.store.jobs import JobRow
from services.meta_agent.store.log import Guard
from services.meta_agent.store.new_job import NewJob
from services.meta_agent.store.store import Store
from services.meta_agent.store.usage import UsageQuery

Context = grpc.aio.ServicerContext[Any, Any]

_MARGIN = 0.25
"""Seconds before the caller's own deadline at which waiting ends, so that it gets its answer."""


class MetaAgentServicer(meta_agent_pb2_grpc.MetaAgentServiceServicer):
    """Serves `hma.v1.MetaAgentService`."""

    def __init__(
        self,
        store: Store,
        watches: Watches,
        status: StatusBoard,
        *,
        validator: Validator,
        admission: Admission,
        rules: Rules,
        reader: JobReader,
        door: Door,
        tenant: str = "default",
        public_url: str = "",
    ) -> None:
        """Reads and writes nothing yet.

        Args:
            store: Where jobs are.
            watches: Follows jobs.
            status: Looks at the system.
            validator: Checks requests.
            admission: Makes jobs of them.
            rules: What projecting a job needs to know.
            reader: Reads jobs.
            door: Keeps out what does not fit.
            tenant: Whose the jobs are when nobody says who calls.
            public_url: In front of `watch_url`; empty for a path only.
        """
        self._store = store
        self._watches = watches
        self._status = status
        self._validator = validator
        self._admission = admission
        self._rules = rules
        self._default_tenant = tenant
        self._public_url = public_url.rstrip("/")
        self._reader = reader
        self._door = door
        self._desk = AdmissionDesk()

    async def CreateJob(
        self, request: meta_agent_pb2.CreateJobRequest, context: Context
    ) -> meta_agent_pb2.CreateJobResponse:
        """Accepts a job."""
        with self._door.holding(request.ByteSize()):
            await self._door.check_queue(self._tenant(), request.request_id)
            created = await self._admit(request)
        # What the documents take need not stay in memory while the caller waits.
        request.job.Clear()
        response = meta_agent_pb2.CreateJobResponse(
            job_id=created.job_id,
            state=created.state,
            watch_url=f"{self._public_url}/v1/jobs/{created.job_id}:watch",
        )
        if request.HasField("wait"):
            try:
                response.job.CopyFrom(await self._wait(created.job_id, request.wait, context))
            except NotFound:
                return response  # deleted: that it was made is all that is known of it
            response.state = response.job.state
        return response

    async def _admit(self, request: meta_agent_pb2.CreateJobRequest) -> Created:
        admitted = await self._desk.admit(
            Work(
                request=request.SerializeToString(deterministic=True),
                validator=self._validator,
                admission=self._admission,
                job_id=new_job_id(),
                event_id=new_event_id(),
                tenant=self._tenant(),
                now=self._store.clock.now(),
            )
        )
        try:
            created = await self._store.jobs.create(
                _new_job(admitted, request.over_quota, self._admission.routes),
                admitted.event,
                admitted.documents,
            )
            self._door.entered(self._tenant(), made=created.made)
            return created
        except RequestIdReused as error:
            first = await self._store.log.read(error.job_id, limit=1)
            if not first:
                raise  # deleted: what it was is not known any more
            raise AlreadyExists(
                f"{error.message} This one has "
                f"{differing_jobs(admitted.event.job_created, first[0].job_created)}."
            ) from None

    async def GetJob(self, request: meta_agent_pb2.GetJobRequest, context: Context) -> job_pb2.Job:
        """Answers with the job as it is, or as it is when it has ended."""
        self._validator.check_get_job(request)
        await self._find(request.job_id)
        return await self._wait(request.job_id, request.wait, context)

    async def ListJobs(
        self, request: meta_agent_pb2.ListJobsRequest, context: Context
    ) -> meta_agent_pb2.ListJobsResponse:
        """Answers with a page of jobs."""
        self._validator.check_list_jobs(request)
        page = await self._store.jobs.page(
            self._tenant(),
            states=list(request.states),
            size=request.page_size or DEFAULT_PAGE_SIZE,
            token=request.page_token,
        )
        return meta_agent_pb2.ListJobsResponse(
            jobs=[listed(row) for row in page.jobs], next_page_token=page.next_token
        )

    async def WatchJob(
        self, request: meta_agent_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[meta_agent_pb2.WatchJobResponse]:
        """Streams a job's log, then what happens, until the job has ended."""
        self._validator.check_watch_job(request)
        await self._find(request.job_id)
        stalling = Stalling(context, self._watches.stall)
        async for update in self._watches.follow(
            request.job_id, request.after_sequence, events_only=request.events_only
        ):
            with stalling.sending():
                yield update

    async def CancelJob(
        self, request: meta_agent_pb2.CancelJobRequest, context: Context
    ) -> job_pb2.Job:
        """Notes that the job is to stop. Cancelling a cancelled job changes nothing."""
        self._validator.check_command(request)
        event = self._fact(request)
        event.cancel_requested.request_id = request.request_id
        event.cancel_requested.reason = request.reason
        try:
            return await self._command(request, event)
        except PreconditionFailed:
            job = await self._read(request.job_id)
            if job.state == job_pb2.JOB_STATE_CANCELLED:
                return job
            raise

    async def InterruptJob(
        self, request: meta_agent_pb2.InterruptJobRequest, context: Context
    ) -> job_pb2.Job:
        """Notes that the answer is wanted now."""
        self._validator.check_command(request)
        event = self._fact(request)
        event.interrupt_requested.request_id = request.request_id
        event.interrupt_requested.reason = request.reason
        return await self._command(request, event)

    async def GrantBudget(
        self, request: meta_agent_pb2.GrantBudgetRequest, context: Context
    ) -> job_pb2.Job:
        """Adds budget."""
        self._validator.check_grant_budget(request)
        event = self._fact(request)
        event.budget_granted.request_id = request.request_id
        event.budget_granted.tokens = request.tokens
        event.budget_granted.asked_tokens = request.tokens
        event.budget_granted.cost = request.cost
        return await self._command(request, event)

    async def _command(self, request: Command, event: job_pb2.JobEvent) -> job_pb2.Job:
        """Logs what a client asks for, once; answers with the job.

        Raises:
            AlreadyExists: The id was used for another request.
            InvalidRequest: The job cannot take the grant.
            NotFound: There is no such job.
            PreconditionFailed: The job has ended, or its tenant may not have more.
        """
        await self._find(request.job_id)
        logged = await self._logged(request)
        if logged is None:
            guard = None
            if event.HasField("budget_granted"):
                guard = await self._check_total(event)
            logged = await self._store.log.note(request.job_id, event, guard)
        check_same(logged, request)
        return await self._read(request.job_id)

    async def _logged(self, request: Command) -> job_pb2.JobEvent | None:
        """What the log has under the id of a request; None when it is new."""
        if not request.request_id:
            return None
        return await self._store.log.find(request.job_id, event_id_of(request))

    async def ExplainJob(
        self, request: meta_agent_pb2.ExplainJobRequest, context: Context
    ) -> explanation_pb2.Explanation:
        """Answers why the job went as it did, up to now or to its end."""
        self._validator.check_explain_job(request)
        await self._find(request.job_id)
        story = Story()
        with logs.bind(job_id=request.job_id):
            async for events in self._reader.pages(request.job_id):
                story.take(events)
            return explanation_of(story, self._rules)

    async def GetUsage(
        self, request: meta_agent_pb2.GetUsageRequest, context: Context
    ) -> meta_agent_pb2.GetUsageResponse:
        """Sums the ledger of the caller's tenant."""
        self._validator.check_get_usage(request)
        return await self._store.usage.sum(
            UsageQuery(
                tenant=self._tenant(),
                by=list(request.by),
                start=_asked(request.start_time) if request.HasField("start_time") else None,
                end=_asked(request.end_time) if request.HasField("end_time") else None,
                size=request.page_size or DEFAULT_USAGE_PAGE_SIZE,
                token=request.page_token,
            )
        )

    async def GetQuota(
        self, request: admin_pb2.GetQuotaRequest, context: Context
    ) -> admin_pb2.Quota:
        """Answers what the tenant may use and what it uses."""
        return await get_quota(self._store, request, self._tenant())

    async def DeleteJob(
        self, request: meta_agent_pb2.DeleteJobRequest, context: Context
    ) -> meta_agent_pb2.DeleteJobResponse:
        """Purges a job that has ended."""
        self._validator.check_command(request)
        tenant = self._tenant()
        try:
            await self._find(request.job_id)
        except NotFound:
            # What is logged of another tenant's job must not be compared with anything. The
            # caller's own may have been deleted by this very request: deleting knows that.
            pass
        else:
            logged = await self._logged(request)
            if logged is not None:
                check_same(logged, request)
        await self._store.jobs.delete(request.job_id, tenant=tenant, request_id=request.request_id)
        return meta_agent_pb2.DeleteJobResponse()

    async def GetSystemStatus(
        self, request: meta_agent_pb2.GetSystemStatusRequest, context: Context
    ) -> meta_agent_pb2.SystemStatus:
        """Answers how the parts are."""
        return await self._status.look()

    def _tenant(self) -> str:
        """Whose jobs the request is about."""
        caller = known_caller()
        return caller.tenant if caller is not None else self._default_tenant

    async def _find(self, job_id: str) -> JobRow:
        """The caller's job; `NotFound` when there is none of that id."""
        return await self._store.jobs.get(job_id, tenant=self._tenant())

    async def _read(self, job_id: str) -> job_pb2.Job:
        with logs.bind(job_id=job_id):
            fold = await self._reader.read(job_id)
            return project(fold, self._rules)

    async def _wait(self, job_id: str, wait: Any, context: Context) -> job_pb2.Job:
        seconds = wait.ToNanoseconds() / 1e9
        left = context.time_remaining()
        if left is not None:
            seconds = min(seconds, left - _MARGIN)
        if seconds > 0:
            await self._watches.wait_ended(job_id, seconds)
        return await self._read(job_id)

    def _fact(self, request: Command) -> job_pb2.JobEvent:
        """An event without payload; the same request_id gives the same event_id."""
        return job_pb2.JobEvent(
            job_id=request.job_id,
            event_id=event_id_of(request),
            time=timestamp(self._store.clock.now()),
        )

    async def _check_total(self, event: job_pb2.JobEvent) -> Guard | None:
        """Completes a grant and refuses one that its job cannot take.

        Returns:
            What is to be looked at again where it is written.
        """
        limit = self._validator.limits.max_budget_tokens
        fold = await self._reader.read(event.job_id)
        if fold.ended:
            return None
        granted = event.budget_granted
        check_money_grant(fold.max_cost, granted.cost)
        more = tokens_with_money(fold.created, granted, self._admission.routes, limit)
        granted.tokens += min(more, max(limit - fold.budget, 0))
        if fold.budget + granted.tokens <= limit:
            return None if fold.created.draws_quota else self._store.quotas.undrawn(self._tenant())
        raise InvalidRequest.field(
            "tokens",
            f"the job has {fold.budget:,} tokens: at most {max(limit - fold.budget, 0):,} more "
            f"fit the largest budget of {limit:,}",
        )


def _new_job(
    admitted: Admitted, over_quota: meta_agent_pb2.OverQuota.ValueType, routes: Routes
) -> NewJob:
    created = admitted.event.job_created
    return NewJob(
        job_id=admitted.event.job_id,
        tenant=created.tenant,
        request_id=created.request_id,
        fingerprint=admitted.fingerprint,
        title=created.task_description,
        create_time=_moment(admitted.event.time.ToMicroseconds()),
        deadline=_moment(created.deadline_time.ToMicroseconds()),
        budget_tokens=created.budget.max_tokens,
        priority=created.policy.priority,
        state_reason="waits for a driver",
        least_tokens=admitted.least_tokens,
        token_price=routes.dearest,
        waits=over_quota == meta_agent_pb2.OVER_QUOTA_WAIT,
    )


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)


def _asked(time: Timestamp) -> datetime:
    return time.ToDatetime(tzinfo=UTC)
