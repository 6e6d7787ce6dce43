"""The client for plain code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from hma.client import requests
from hma.client.backoff import Backoff, resumable
from hma.client.connection import OPTIONS, Server, failure_of
from hma.client.credentials import has_credentials, with_credentials
from hma.client.keys import Keys
from hma.client.paging import Pages
from hma.client.periods import MomentLike, UsageBy, get_usage
from hma.client.plaintext import guard_key
from hma.client.requests import DurationLike, JobOptions
from hma.client.trail import PAGE, audit_question
from hma.client.tries import Tries
from hma.client.trust import channel_credentials
from hma.client.watching import WAIT_SLICE, Waiting, Watching
from hma.errors import HmaError
from hma.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    explanation_pb2,
    job_pb2,
    meta_agent_pb2,
    meta_agent_pb2_grpc,
)

T = TypeVar("T", bound=Message)


class Client:
    """Talks to HMA. Safe to share between threads; a context manager.

    Every method raises a subclass of `hma.HmaError` and nothing of gRPC's: see
    `hma.errors`. Calls that find the server away are tried again; every mutation
    carries a request_id, so that this is safe.

    Args:
        server: "host:port" or an http(s) URL; default HMA_SERVER, else localhost:8080.
        timeout: Seconds that one call may take, retries included. Does not limit
            `wait`, `run` and `watch`, which last as long as their job.
        api_key: A key (`hma keys create`) or a token; default HMA_API_KEY, else the content
            of the file that HMA_API_KEY_FILE names; "" for none. One that others
            can read, on its way (HMA_PLAINTEXT_KEY) or in its file, is a KeyWarning.
        ca_file: PEM file with the certificate authorities that an https server is verified by;
            default HMA_CA_FILE; "" for the public ones.
        metadata: Sent with every call, too.
        backoff: How calls are tried again.
        resume: How a broken watch is resumed.

    Attributes:
        keys: Makes, lists, renews and ends keys.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        timeout: float = 30.0,
        api_key: str | None = None,
        ca_file: str | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        backoff: Backoff | None = None,
        resume: Backoff | None = None,
    ) -> None:
        self._server = Server.parse(server)
        self._timeout = timeout
        self._metadata = with_credentials(metadata, api_key)
        if has_credentials(self._metadata):
            guard_key(self._server)
        self._backoff = backoff or Backoff()
        self._resume = resume or Backoff(tries=8)
        if self._server.secure:
            self._channel = grpc.secure_channel(
                self._server.target, channel_credentials(ca_file), options=OPTIONS
            )
        else:
            self._channel = grpc.insecure_channel(self._server.target, options=OPTIONS)
        self._stub = meta_agent_pb2_grpc.MetaAgentServiceStub(self._channel)
        self.keys = Keys(self._channel, self._call)
        self._admin = admin_pb2_grpc.AdminServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Jobs go on."""
        self._channel.close()

    def run(self, task: str, **options: Unpack[JobOptions]) -> job_pb2.Job:
        """Submits a job and waits for its end.

        Args:
            task: What is wanted, in as many words as it takes.
            **options: `budget` in tokens, `max_cost` in money, or both, and what else
                `JobOptions` has: documents, deadline, shape, route, plan, policy, request_id.

        Returns:
            The ended job, whatever its state: look at `state`, `answer`, `failure`.

        Raises:
            HmaError: As `submit` and `wait`.
            OSError: A document cannot be read.
        """
        return self.wait(self.submit(task, **options))

    def submit(self, task: str, **options: Unpack[JobOptions]) -> str:
        """Submits a job and returns at once; arguments as for `run`.

        Returns:
            The job's id.

        Raises:
            InvalidRequest: The job cannot be run as asked; names each field.
            QuotaExceeded, Overloaded: Not now; `retry_after` says when.
            Unavailable: The server is away.
            OSError: A document cannot be read.
        """
        request = requests.create_job(task, **options)
        return self._call(self._stub.CreateJob, request).job_id

    def get(self, job_id: str) -> job_pb2.Job:
        """The job as it is now.

        Raises:
            NotFound: There is no such job.
        """
        return self._call(self._stub.GetJob, meta_agent_pb2.GetJobRequest(job_id=job_id))

    def explain(self, job_id: str) -> explanation_pb2.Explanation:
        """Why a job went as it did: where its tokens went, what moved, stopped and was dropped.

        A job that runs is explained up to now.

        Raises:
            NotFound: There is no such job.
        """
        request = meta_agent_pb2.ExplainJobRequest(job_id=job_id)
        return self._call(self._stub.ExplainJob, request)

    def wait(self, job_id: str, timeout: DurationLike | None = None) -> job_pb2.Job:
        """Waits for a job's end.

        Args:
            job_id: The job.
            timeout: Gives up after this; default: a minute past the job's own deadline.

        Raises:
            DeadlinePassed: The job had not ended by then. It goes on.
            NotFound: There is no such job.
        """
        waiting = Waiting(job_id, timeout)
        while True:
            request, longest = waiting.request(), WAIT_SLICE + self._timeout
            job = self._call(self._stub.GetJob, request, longest)
            if requests.ended(job):
                return job
            time.sleep(waiting.pause_after(job))

    def watch(
        self, job_id: str, *, after: int = 0, events_only: bool = False
    ) -> Iterator[meta_agent_pb2.WatchJobResponse]:
        """Follows a job: its log from any event on, then live, until it has ended.

        A stream that breaks is resumed behind the last event that was seen, so each
        event comes once and in order. Leaving the iterator never stops the job.

        Args:
            job_id: The job.
            after: Events after this sequence; 0 for all.
            events_only: Leaves out progress, the snapshots of what runs.

        Raises:
            NotFound: There is no such job.
            Unavailable: The server stayed away.
        """
        watching = Watching(
            job_id, after, events_only=events_only, first=self._backoff, resume=self._resume
        )
        while True:
            failure: HmaError | None = None
            call = self._stub.WatchJob(watching.request(), metadata=self._metadata)
            try:
                for update in call:
                    if watching.takes(update):
                        yield update
                    if watching.cursor.finished:
                        return
            except grpc.RpcError as error:
                failure = failure_of(error, self._server)
                if not resumable(error):
                    raise failure from error
            finally:
                call.cancel()
            if failure is None and watching.cursor.covers(self.get(job_id)):
                return
            time.sleep(watching.pause_after(failure))

    def list(
        self,
        *,
        states: Iterable[job_pb2.JobState.ValueType] = (),
        limit: int | None = None,
        page_size: int = 50,
    ) -> Iterator[job_pb2.Job]:
        """Jobs, the newest first, without tasks, answer and ledger rows; pages come as needed.

        Args:
            states: Only jobs in these states; empty: all.
            limit: At most this many; None: all there are.
            page_size: Jobs per call.
        """
        pages = Pages(meta_agent_pb2.ListJobsRequest(states=states), page_size, limit)
        while pages.more:
            page = self._call(self._stub.ListJobs, pages.request)
            yield from pages.turn(page.jobs, page.next_page_token)

    def interrupt(self, job_id: str, reason: str = "") -> job_pb2.Job:
        """Asks for the answer now, with what is there.

        Raises:
            PreconditionFailed: The job has ended.
        """
        return self._call(self._stub.InterruptJob, requests.interrupt_job(job_id, reason))

    def cancel(self, job_id: str, reason: str = "") -> job_pb2.Job:
        """Stops a job without an answer.

        Raises:
            PreconditionFailed: The job has ended.
        """
        return self._call(self._stub.CancelJob, requests.cancel_job(job_id, reason))

    def grant(self, job_id: str, tokens: int = 0, cost: float = 0.0) -> job_pb2.Job:
        """Adds tokens, money or both to the budget of a job that has not ended.

        Args:
            job_id: The job.
            tokens: Tokens to add.
            cost: Money to add to its max_cost, in the currency of the routes' prices.

        Raises:
            InvalidRequest: There is nothing to add, or the job cannot take it.
            PreconditionFailed: The job has ended.
        """
        request = requests.grant_budget(job_id, tokens, cost)
        return self._call(self._stub.GrantBudget, request)

    def delete(self, job_id: str) -> None:
        """Purges an ended job: its documents and its log.

        Raises:
            PreconditionFailed: The job has not ended; cancel it first.
        """
        gone = meta_agent_pb2.DeleteJobResponse()
        self._call(self._stub.DeleteJob, requests.delete_job(job_id), gone=gone)

    def usage(
        self,
        by: Iterable[UsageBy] = (),
        *,
        since: MomentLike | None = None,
        until: MomentLike | None = None,
    ) -> meta_agent_pb2.GetUsageResponse:
        """What was used, from the ledger of the caller's tenant.

        Args:
            by: "tenant", "route", "day": a row for each combination; empty: one row.
            since: From then on: a time, a day (UTC), or how long ago ("7d"); default 30
                days before the end.
            until: Up to then, not included; default now.

        Returns:
            The rows of all pages, by day the latest first, and their total.

        Raises:
            InvalidRequest: The period or the grouping is none.
        """
        request = get_usage(by, since, until)
        page = self._call(self._stub.GetUsage, request)
        whole = page
        while page.next_page_token:
            request.page_token = page.next_page_token
            page = self._call(self._stub.GetUsage, request)
            whole.rows.extend(page.rows)
        whole.next_page_token = ""
        return whole

    def audit(
        self,
        *,
        tenant: str = "",
        job_id: str = "",
        refused: bool = False,
        since: MomentLike | None = None,
        limit: int | None = None,
    ) -> Iterator[admin_pb2.AuditEntry]:
        """Who did what, the latest first; pages come as needed.

        Args:
            tenant: Whose trail; the caller's when empty; "*" for all (OPERATOR).
            job_id: Only what was done to this job.
            refused: Only what was refused or failed.
            since: From then on: a time, a day (UTC), or how long ago ("7d").
            limit: At most this many; None: all there are.

        Raises:
            PermissionDenied: The key's role is too low for this trail.
        """
        request = audit_question(tenant=tenant, job_id=job_id, refused=refused, since=since)
        pages = Pages(request, PAGE, limit)
        while pages.more:
            page = self._call(self._admin.ListAuditEntries, pages.request)
            yield from pages.turn(page.entries, page.next_page_token)

    def quota(self, tenant: str = "") -> admin_pb2.Quota:
        """What a tenant may use, what it uses, and when each window frees.

        Args:
            tenant: Whose; default: the caller's. Another's is shown to operators only.
        """
        return self._call(self._stub.GetQuota, admin_pb2.GetQuotaRequest(tenant=tenant))

    def set_quota(
        self, tenant: str, preset: str = "", limits: Mapping[str, float] | None = None
    ) -> admin_pb2.QuotaLimits:
        """Sets what a tenant may use, for jobs from now on; operators only.

        Args:
            tenant: Whose.
            preset: "small", "large" or "unlimited"; empty: what is set now is changed.
            limits: Limits to change, by their names in `QuotaLimits`; 0: none.

        Returns:
            All limits of the tenant.

        Raises:
            InvalidRequest: There is no such limit or preset.
        """
        request = requests.set_quota(tenant, preset, limits or {})
        return self._call(self._admin.SetQuota, request)

    def status(self) -> meta_agent_pb2.SystemStatus:
        """What is up, what is not, and what to do about it."""
        return self._call(self._stub.GetSystemStatus, meta_agent_pb2.GetSystemStatusRequest())

    def _call(
        self,
        method: Callable[..., T],
        request: Message,
        timeout: float | None = None,
        *,
        gone: T | None = None,
        once: bool = False,
    ) -> T:
        """Calls, and calls again while the server is away and there is time.

        Args:
            method: The stub's method.
            request: What to send.
            timeout: Seconds for all tries; default the client's.
            gone: What NOT_FOUND means after a try whose answer was lost.
            once: Not again: what is asked for must not happen twice.
        """
        seconds = self._timeout if timeout is None else timeout
        tries = Tries(self._backoff, seconds, once=once)
        while True:
            try:
                return method(request, timeout=tries.left(), metadata=self._metadata)
            except grpc.RpcError as error:
                failure = failure_of(error, self._server, tries.left())
                if gone is not None and tries.was_done_before(failure):
                    return gone
                wait = tries.wait_after(failure)
                if wait is None:
                    raise failure from error
            time.sleep(wait)
