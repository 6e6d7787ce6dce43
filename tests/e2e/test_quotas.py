"""Limits that cannot be overshot: 200 clients of five tenants through the real gateway.

Two MetaAgents let jobs in and drive them. While they do, and afterwards from beginning to
end, what every window held is recomputed from the rows that nobody sums up: the ledger,
the jobs and their logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

import hma
from hma.local.database import database_url
from hma.v1 import job_pb2, meta_agent_pb2, meta_agent_pb2_grpc, task_pb2
from services.meta_agent.store.database import Database, open_database
from tests.e2e.conftest import ROOT, Stack, running_stack
from tests.integration.store.quota_checks import check_limits, check_sums

pytestmark = pytest.mark.timeout(600)

CLIENTS = 40
"""Of each tenant; each wants one job."""

TRIES = 3
"""How often a client that was refused asks in all."""

SPAN = 60.0
"""Seconds of the windows."""

BUDGET = 3000
REFUSE, WAIT = meta_agent_pb2.OVER_QUOTA_REFUSE, meta_agent_pb2.OVER_QUOTA_WAIT
DONE = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_PARTIAL)
ENDED = (*DONE, job_pb2.JOB_STATE_FAILED)


@dataclass(frozen=True)
class Tenant:
    """A tenant and what its clients want.

    Attributes:
        limits: Tight ones.
        waiting: Of four clients, how many let their job wait.
        deadline: Of each job, in seconds.
    """

    name: str
    limits: dict[str, float]
    waiting: int
    deadline: int = 60


TENANTS = (
    Tenant("asks", {"requests_per_minute": 12}, waiting=0),
    Tenant("spends", {"tokens_per_minute": 9_000}, waiting=2, deadline=25),
    Tenant("queues", {"concurrent_jobs": 3}, waiting=4),
    Tenant("works", {"concurrent_tasks": 2}, waiting=0),
    Tenant(
        "all",
        {
            "requests_per_minute": 15,
            "tokens_per_minute": 20_000,
            "concurrent_jobs": 4,
            "concurrent_tasks": 3,
        },
        waiting=2,
        deadline=25,
    ),
)


@dataclass
class Told:
    """What the clients of a tenant were told.

    Attributes:
        jobs: Those that were accepted.
        refused: By the limit that was in the way.
    """

    jobs: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class House:
    """The stack, its database, and the secrets of keys by tenant."""

    stack: Stack
    keys: dict[str, str]

    @property
    def url(self) -> str:
        """Of the database."""
        return database_url(Path(self.stack.environment["HMA_DATA_DIR"]) / "pg")


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """A scripted model server; its base URL."""
    command = [sys.executable, "-m", "tests.scripted_llm", "--port", "0", "--token-delay", "0.004"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            word, _, url = process.stdout.readline().strip().partition(" ")
            assert word == "ready"
            yield url
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def house(open_directory: Path, model: str) -> Iterator[House]:
    """Two MetaAgents behind the gateway, and five tenants with keys and limits."""
    with running_stack(
        open_directory / "quotas",
        HMA_AUTH="on",
        HMA_LLM_BASE_URL=model,
        HMA_LLM_PROFILE="standard",
        HMA_LOCAL_META_AGENTS="2",
        HMA_QUOTA_TRANCHE="1500",
    ) as stack:
        operator = (stack.directory / "var" / "access" / "key").read_text().strip()
        with hma.Client(stack.address, api_key=operator, timeout=30) as client:
            keys = {}
            for tenant in TENANTS:
                keys[tenant.name] = client.keys.create(tenant=tenant.name).secret
                client.set_quota(tenant.name, limits=tenant.limits)
        yield House(stack, keys)


def _job(tenant: Tenant, number: int, dice: random.Random) -> meta_agent_pb2.CreateJobRequest:
    tasks = [
        task_pb2.Task(id=f"t{n}", instruction=f"In which year was mill {number}.{n} built?")
        for n in range(dice.randint(1, 2))
    ]
    spec = job_pb2.JobSpec(
        task_description="When were the mills built?",
        total_budget_tokens=BUDGET,
        plan=task_pb2.Plan(tasks=tasks),
    )
    spec.budget.deadline.seconds = tenant.deadline
    over_quota = WAIT if number % 4 < tenant.waiting else REFUSE
    return meta_agent_pb2.CreateJobRequest(
        job=spec, over_quota=over_quota, request_id=f"{tenant.name}-{number}"
    )


class Clients:
    """Those who call; every second one over HTTP."""

    def __init__(self, house: House, channel: grpc.aio.Channel, threads: ThreadPoolExecutor):
        self._house = house
        self._stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        self._threads = threads
        self.told = {tenant.name: Told() for tenant in TENANTS}

    async def call(self, tenant: Tenant, number: int) -> None:
        """One client: asks until it is accepted or has been refused often enough."""
        dice = random.Random(f"{tenant.name} {number}")
        request = _job(tenant, number, dice)
        await asyncio.sleep(dice.uniform(0, 2))
        how = self._over_http if number // 4 % 2 else self._over_grpc
        for _ in range(TRIES):
            while (job_id := await how(tenant, request)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.5)  # a busy machine: the same request makes its job once
            if job_id:
                self.told[tenant.name].jobs.append(job_id)
                return
            # Sooner than it was told to: limits do not rest on clients that listen.
            await asyncio.sleep(dice.uniform(0.2, 2))

    async def _over_grpc(
        self, tenant: Tenant, request: meta_agent_pb2.CreateJobRequest
    ) -> str | None:
        """The job; empty when it was refused, None when nobody was there to say so."""
        metadata = (("authorization", f"Bearer {self._house.keys[tenant.name]}"),)
        try:
            made: meta_agent_pb2.CreateJobResponse
            made = await self._stub.CreateJob(request, timeout=30, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return self._refusal(tenant, error)
        return made.job_id

    def _refusal(self, tenant: Tenant, error: grpc.aio.AioRpcError) -> str | None:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return None
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
        trailers = {str(key): value for key, value in error.trailing_metadata() or ()}
        details: Any = trailers["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(details)
        failure, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
        assert any(each.Unpack(failure) for each in status.details)
        assert any(each.Unpack(retry) for each in status.details)
        assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= SPAN + 1
        [violation] = failure.violations
        self._refused(tenant, violation.subject, trailers)
        return ""

    async def _over_http(
        self, tenant: Tenant, request: meta_agent_pb2.CreateJobRequest
    ) -> str | None:
        """The same over HTTP."""
        loop = asyncio.get_running_loop()
        name = meta_agent_pb2.OverQuota.Name(request.over_quota)
        path = f"/v1/jobs?request_id={request.request_id}&over_quota={name}"
        body = json_format.MessageToJson(request.job)
        status, headers, answer = await loop.run_in_executor(
            self._threads, self._post, tenant, path, body
        )
        if status == 200:
            return str(answer.get("job_id") or answer["jobId"])
        if status in (503, 504):
            return None
        assert status == 429, (status, answer)
        [failure] = [each for each in answer["details"] if each["@type"].endswith("QuotaFailure")]
        [violation] = failure["violations"]
        assert any(each["@type"].endswith("RetryInfo") for each in answer["details"])
        self._refused(tenant, violation["subject"], headers)
        return ""

    def _post(self, tenant: Tenant, path: str, body: str) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection(self._house.stack.address, timeout=30)
        try:
            headers = {
                "x-api-key": self._house.keys[tenant.name],
                "content-type": "application/json",
            }
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            names = [name.lower() for name, _ in response.getheaders()]
            assert len(set(names)) == len(names), names
            got = {name.lower(): value for name, value in response.getheaders()}
            return response.status, got, json.loads(response.read())
        finally:
            connection.close()

    def _refused(self, tenant: Tenant, subject: str, headers: dict[str, Any]) -> None:
        """Whoever is refused is told which limit, how full, and until when."""
        whose, _, limit = subject.partition("/")
        assert whose == f"tenant:{tenant.name}"
        assert int(headers["x-ratelimit-limit"]) == tenant.limits[limit]
        assert 0 <= int(headers["x-ratelimit-remaining"]) < tenant.limits[limit]
        assert 1 <= int(headers["retry-after"]) <= SPAN + 1
        assert headers["x-ratelimit-reset"] == headers["retry-after"]
        self.told[tenant.name].refused[limit] += 1


@contextlib.asynccontextmanager
async def watched(database: Database) -> AsyncIterator[list[int]]:
    """Looks at the raw rows again and again until the context is left: how often, so far."""
    looks = [0]

    async def look() -> None:
        while True:
            await check_limits(database)
            looks[0] += 1
            await asyncio.sleep(0.2)

    looking = asyncio.create_task(look())
    try:
        yield looks
    finally:
        looking.cancel()
        [ended] = await asyncio.gather(looking, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended


async def _until_all_ended(database: Database, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while await database.fetch("SELECT FROM job WHERE NOT sealed LIMIT 1"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_200_clients_of_five_tenants_never_exceed_a_window_and_none_starves(
    house: House,
) -> None:
    with ThreadPoolExecutor(CLIENTS) as threads:
        async with (
            open_database(house.url, max_size=3) as database,
            grpc.aio.insecure_channel(house.stack.address) as channel,
        ):
            clients = Clients(house, channel, threads)
            async with watched(database) as looks:
                async with asyncio.TaskGroup() as group:
                    for number in range(CLIENTS):
                        for tenant in TENANTS:
                            group.create_task(clients.call(tenant, number))
                await _until_all_ended(database, 100)
            assert looks[0] > 20
            await check_sums(database)
            jobs = await database.fetch(_JOBS)
            spent = await database.fetch(_SPENT)
            events = await database.fetch(_EVENTS)
    # What was accepted is there, was accepted once, and has ended.
    accepted = sorted(job for told in clients.told.values() for job in told.jobs)
    assert accepted == sorted(row["id"] for row in jobs)
    assert {row["state"] for row in jobs} <= set(ENDED)
    history = History(jobs, spent, events)
    for tenant in TENANTS:
        told, peaks = clients.told[tenant.name], history.peaks(tenant.name)
        for limit, most in tenant.limits.items():
            assert peaks[limit] <= most, (tenant.name, limit)
        assert set(told.refused) <= set(tenant.limits)
        assert len(told.jobs) == CLIENTS or told.refused, tenant.name
    _check_shares(clients.told, history)


def _check_shares(told: dict[str, Told], history: History) -> None:
    """No tenant starves beside the others: each has what its limits leave it."""
    done = {tenant.name: history.done(tenant.name) for tenant in TENANTS}
    limits = {tenant.name: tenant.limits for tenant in TENANTS}
    peaks = {tenant.name: history.peaks(tenant.name) for tenant in TENANTS}
    # A window that a crowd wants is full to the last request.
    assert peaks["asks"]["requests_per_minute"] == limits["asks"]["requests_per_minute"]
    assert done["asks"] == len(told["asks"].jobs)
    # Whoever only waits for its own jobs or tasks gets all of them done.
    for name in ("queues", "works"):
        assert done[name] == CLIENTS, (name, done)
        assert not told[name].refused
    assert peaks["queues"]["concurrent_jobs"] == limits["queues"]["concurrent_jobs"]
    assert peaks["works"]["concurrent_tasks"] == limits["works"]["concurrent_tasks"]
    # Of tokens, what is left over is less than a job needs.
    most = limits["spends"]["tokens_per_minute"]
    assert peaks["spends"]["tokens_per_minute"] > most / 2, peaks["spends"]
    assert told["spends"].refused["tokens_per_minute"]
    assert done["spends"] >= 5
    assert done["all"] >= 5
    assert told["all"].refused


_JOBS = """
SELECT id, tenant, state, extract(epoch FROM accept_time)::float8 AS accepted,
       extract(epoch FROM end_time)::float8 AS ended FROM job
"""
_SPENT = """
SELECT tenant, prompt_tokens::bigint + completion_tokens AS tokens,
       extract(epoch FROM settle_time)::float8 AS at FROM ledger_entry
UNION ALL SELECT tenant, tokens, extract(epoch FROM seal_time)::float8 FROM quota_loss
"""
_EVENTS = """
SELECT j.tenant, e.sequence, e.payload FROM job_event e JOIN job j ON j.id = e.job_id
WHERE e.type LIKE 'attempt%'
ORDER BY e.job_id, e.sequence
"""


class History:
    """What each tenant used, from beginning to end."""

    def __init__(self, jobs: Iterable[Any], spent: Iterable[Any], events: Iterable[Any]) -> None:
        self._jobs = list(jobs)
        self._spent = list(spent)
        self._starts: dict[str, dict[Any, float]] = defaultdict(dict)
        self._ends: dict[str, dict[Any, float]] = defaultdict(dict)
        for row in events:
            event = job_pb2.JobEvent.FromString(row["payload"])
            payload = getattr(event, event.WhichOneof("payload") or "")
            if not payload.ref.task_uid[:1].isdigit():
                continue  # a plan or a reduce: they need no place at a Worker
            key = (event.job_id, payload.ref.task_uid, payload.ref.attempt)
            at, ends = event.time.ToMicroseconds() / 1e6, self._ends[row["tenant"]]
            if event.HasField("attempt_started"):
                self._starts[row["tenant"]][key] = at
            elif not event.HasField("attempt_stopped"):
                ends[key] = min(ends.get(key, at), at)

    def done(self, tenant: str) -> int:
        """Its jobs that ended with an answer."""
        return sum(row["tenant"] == tenant and row["state"] in DONE for row in self._jobs)

    def peaks(self, tenant: str) -> dict[str, float]:
        """The most that each of its windows ever had in it."""
        jobs = [row for row in self._jobs if row["tenant"] == tenant]
        accepted = [(row["accepted"], 1) for row in jobs if row["accepted"] is not None]
        ends = [(row["ended"], -1) for row in jobs if row["accepted"] is not None]
        spent = [(row["at"], row["tokens"]) for row in self._spent if row["tenant"] == tenant]
        starts, stops = self._starts[tenant], self._ends[tenant]
        tasks = [(at, 1) for at in starts.values()] + [(stops[key], -1) for key in starts]
        return {
            "requests_per_minute": _fullest(accepted),
            "tokens_per_minute": _fullest(spent),
            "concurrent_jobs": _highest([*accepted, *ends]),
            "concurrent_tasks": _highest(tasks),
        }


def _fullest(uses: list[tuple[float, int]]) -> int:
    """The most in any 60 seconds: they end with a use, where else could more be in them?"""
    return max((sum(u for t, u in uses if end - SPAN < t <= end) for end, _ in uses), default=0)


def _highest(steps: list[tuple[float, int]]) -> int:
    level = most = 0
    for _, step in sorted(steps):  # at the same moment ends come first
        level += step
        most = max(most, level)
    assert level == 0
    return most
