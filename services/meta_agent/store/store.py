"""Everything the MetaAgent keeps, opened together and closed in the right order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from services.meta_agent.store.appender import Appender, AppenderLimits
from services.meta_agent.store.audit import AuditBook
from services.meta_agent.store.beat import Beat, BeatTimes
from services.meta_agent.store.claims import LEASE, Claims
from services.meta_agent.store.clock import Clock
from services.meta_agent.store.database import Database, open_database
from services.meta_agent.store.documents import Documents
from services.meta_agent.store.fleet import FleetMetrics
from services.meta_agent.store.jobs import Jobs
from services.meta_agent.store.keys import Keys
from services.meta_agent.store.log import JobLog
from services.meta_agent.store.migrate import migrate
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.quota_lock import QuotaRules, TenantLocks
from services.meta_agent.store.quotas import Quotas
from services.meta_agent.store.reader import READER
from services.meta_agent.store.replicas import Replicas
from services.meta_agent.store.retention import Retention
from services.meta_agent.store.route_windows import RouteWindows
from services.meta_agent.store.usage import UsageBook


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How the store is opened.

    Attributes:
        reader: Reader version of this release (`Claims`).
        pool_size: Pooled connections at most; the appender, the beat and the
            notifications have one more each.
        lease: Seconds for which a replica without a beat keeps its jobs.
        poll_interval: Seconds by which a lost notification is late at most.
        appender: Bounds of group commit.
        beat: Times of the beat.
        quota: What the operator says about quotas.
    """

    reader: int = READER
    pool_size: int = 10
    lease: float = LEASE
    poll_interval: float = 1.0
    appender: AppenderLimits = field(default_factory=AppenderLimits)
    beat: BeatTimes = field(default_factory=BeatTimes)
    quota: QuotaRules = field(default_factory=QuotaRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The open store of one replica.

    Attributes:
        replica_id: This replica.
        database: The database itself, for a ping.
        log: Append and read job logs.
        jobs: Create, get, list, count, delete.
        documents: Read documents.
        claims: Take and give back jobs.
        replicas: Who is alive.
        beat: This replica's lease.
        notifications: Wait for news.
        clock: Database time.
        fleet: Counters summed over the fleet.
        usage: Sums of the ledger.
        retention: Deletes what is old.
        keys: API keys.
        audit: Who did what.
        quotas: What tenants may use and use.
        route_windows: Room on routes that have limits of their own.
    """

    replica_id: str
    database: Database
    log: JobLog
    jobs: Jobs
    documents: Documents
    claims: Claims
    replicas: Replicas
    beat: Beat
    notifications: Notifications
    clock: Clock
    fleet: FleetMetrics
    usage: UsageBook
    retention: Retention
    keys: Keys
    audit: AuditBook
    quotas: Quotas
    route_windows: RouteWindows


@contextlib.asynccontextmanager
async def open_store(
    url: str,
    *,
    replica_id: str,
    address: str,
    on_lost: Callable[[], None] = lambda: None,
    on_renewed: Callable[[], None] = lambda: None,
    options: StoreOptions | None = None,
) -> AsyncIterator[Store]:
    """Migrates the database and opens the store of one replica.

    Leave the context after the drivers have ended: what they append is written first,
    then the lease is given up.

    Args:
        url: The database.
        replica_id: `ids.new_replica_id()`: new for each run of the process.
        address: Where other replicas reach this one's gRPC server, host:port.
        on_lost: Called in the event loop when the lease could not be renewed for two
            seconds: cancel all streams.
        on_renewed: Called when it is held again.
        options: How.

    Raises:
        SettingsError: The database's schema does not fit this release, or bad URL.
        Unavailable: The database cannot be reached.
    """
    options = options or StoreOptions()
    await migrate(url)
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(url, max_size=options.pool_size))
        clock = Clock()
        await clock.synchronise(database)
        notifications = await stack.enter_async_context(
            Notifications(database, poll_interval=options.poll_interval)
        )
        beat = await stack.enter_async_context(
            Beat(
                url,
                replica_id,
                address,
                clock=clock,
                on_lost=on_lost,
                on_renewed=on_renewed,
                times=options.beat,
            )
        )
        appender = await stack.enter_async_context(
            Appender(database, notifications, options.appender)
        )
        locks = TenantLocks(database, options.quota)
        yield Store(
            replica_id=replica_id,
            database=database,
            log=JobLog(database, appender, notifications),
            jobs=Jobs(database, notifications, locks),
            documents=Documents(database),
            claims=Claims(
                database,
                notifications,
                reader=options.reader,
                lease=options.lease,
                ageing=options.quota.ageing,
            ),
            replicas=Replicas(database, lease=options.lease),
            beat=beat,
            notifications=notifications,
            clock=clock,
            fleet=FleetMetrics(database, replica_id),
            usage=UsageBook(database),
            retention=Retention(database, notifications),
            keys=Keys(database, notifications),
            audit=AuditBook(database),
            quotas=Quotas(database, locks, notifications),
            route_windows=RouteWindows(database),
        )
