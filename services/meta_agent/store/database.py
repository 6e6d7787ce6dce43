"""Connections to PostgreSQL, and what the words "the database is away" mean."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import asyncpg

from hma.errors import SettingsError, Unavailable

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
"""A connection of one's own, or one that the pool lends."""

STATEMENT_TIMEOUT = 10.0
"""Seconds after which the server ends a statement."""
CLIENT_TIMEOUT = 15.0
"""Seconds after which this side gives up on an answer: longer than the server's own."""

_SERVER_SETTINGS = {
    "statement_timeout": f"{STATEMENT_TIMEOUT * 1000:.0f}",
    "lock_timeout": "500",
    # A stopped process must not hold a job's row longer than its lease.
    "idle_in_transaction_session_timeout": "2000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
    # The statements are short: compiling them costs more than they do.
    "jit": "off",
}

AWAY: tuple[type[Exception], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # An operator's transaction_timeout; and what says of itself that nobody knows.
    asyncpg.TransactionTimeoutError,
    asyncpg.StatementCompletionUnknownError,
    # After a failover: what was the primary is none any more.
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    # A connection that the server has ended, used before the library has seen its end.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What a statement raises when the connection fails: whether it took effect is not known."""

BUSY: tuple[type[Exception], ...] = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.QueryCanceledError,
)
"""What a statement raises when it had no effect and may be tried again."""

_ITS_OWN_TROUBLE = ("53", "57", "58", "XX")
"""Classes of SQLSTATE that tell of the server and not of the statement: insufficient
resources, operator intervention, system error, internal error (PostgreSQL's manual,
appendix A)."""

FAILED: tuple[type[Exception], ...] = (*AWAY, asyncpg.PostgresError, Unavailable)
"""Whatever a statement raises, for those who only log it and come again."""


def is_away(error: BaseException) -> bool:
    """Whether the connection failed: whether the statement took effect is not known.

    Besides AWAY, that is trouble of the server that ends the session (FATAL) or all of them
    (PANIC). asyncpg's complaint about an argument's type is none.
    """
    if isinstance(error, AWAY):
        return not isinstance(error, ValueError)
    return _is_its_own_trouble(error) and not isinstance(error, BUSY) and not _is_over(error)


def is_failing(error: BaseException) -> bool:
    """Whether the database has trouble of its own: a full disk, no memory, a broken page.

    The statement had no effect, and is at fault no more than when the database is away.
    """
    return _is_its_own_trouble(error) and not isinstance(error, AWAY + BUSY) and _is_over(error)


def _is_its_own_trouble(error: BaseException) -> bool:
    code = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
    return code is not None and code.startswith(_ITS_OWN_TROUBLE)


def _is_over(error: BaseException) -> bool:
    """Whether the error has ended its statement alone, and with it what that had done."""
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    return severity == "ERROR"


@dataclass(frozen=True, slots=True)
class Database:
    """A PostgreSQL database. Its methods raise Unavailable when it is away, busy or failing.

    Attributes:
        url: Its URI, for connections of one's own (`connect`).
        pool: Connections for short work.
    """

    url: str = field(repr=False)  # may hold a password
    pool: asyncpg.Pool

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        """Lends a pooled connection; waits five seconds for one at most."""
        with reachable():
            async with self.pool.acquire(timeout=5) as connection:
                yield connection

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Runs a query; all of its rows."""
        async with self.connection() as connection:
            return await connection.fetch(query, *args)

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """Runs a query; its first row."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *args)

    async def execute(self, query: str, *args: object) -> str:
        """Runs a statement; PostgreSQL's command tag."""
        async with self.connection() as connection:
            return await connection.execute(query, *args)


@contextlib.asynccontextmanager
async def open_database(
    url: str, *, name: str = "hma-meta-agent", min_size: int = 2, max_size: int = 10
) -> AsyncIterator[Database]:
    """Opens a pool of connections.

    Connections go back without asyncpg's reset query, which would double the round
    trips: nothing here leaves a session changed (no SET, no LISTEN, no session lock
    on a pooled connection), and open transactions are rolled back all the same.

    Args:
        url: postgresql://user:password@host:port/database; a Unix socket's directory
            as `?host=`.
        name: Shown in pg_stat_activity.
        min_size: Connections kept open.
        max_size: Connections at most; whoever needs one more waits.

    Raises:
        Unavailable: The database cannot be reached.
        SettingsError: `url` is not one.
    """
    with reachable(), valid_url():
        pool = await asyncpg.create_pool(
            url,
            min_size=min_size,
            max_size=max_size,
            command_timeout=CLIENT_TIMEOUT,
            timeout=5,
            init=_keep_alive,
            reset=_nothing_to_reset,
            server_settings=_SERVER_SETTINGS | {"application_name": name},
        )
    try:
        yield Database(url, pool)
    finally:
        try:
            await asyncio.wait_for(pool.close(), 5)
        except TimeoutError:
            pool.terminate()


async def connect(
    url: str,
    *,
    name: str,
    timeout: float = CLIENT_TIMEOUT,
    settings: dict[str, str] | None = None,
) -> asyncpg.Connection:
    """Opens one connection of one's own, set up like the pool's.

    Args:
        url: The database.
        name: Shown in pg_stat_activity.
        timeout: Seconds that any statement may take, seen from this side.
        settings: Server settings that differ.

    Raises:
        Any of AWAY: The database cannot be reached.
    """
    connection = await asyncpg.connect(
        url,
        timeout=min(5.0, timeout),
        command_timeout=timeout,
        server_settings=_SERVER_SETTINGS | {"application_name": name} | (settings or {}),
    )
    await _keep_alive(connection)
    return connection


@contextlib.contextmanager
def valid_url() -> Iterator[None]:
    """Turns complaints about a URL or what it names into `SettingsError`, without quoting it."""
    try:
        yield
    except (ValueError, asyncpg.exceptions.ClientConfigurationError):
        # It may hold a password.
        raise SettingsError(
            "HMA_DATABASE_URL: expected postgresql://user:password@host:port/database"
        ) from None
    except (
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InsufficientPrivilegeError,
    ) as error:
        raise SettingsError(
            "HMA_DATABASE_URL: the server is there, but the user, the password, the database or "
            f"a privilege is wrong (SQLSTATE {error.sqlstate})."
        ) from None


@contextlib.contextmanager
def reachable() -> Iterator[None]:
    """Turns failures of the database into `Unavailable`."""
    try:
        yield
    except FAILED as error:
        if is_away(error):
            raise Unavailable(
                "The database cannot be reached; try again.", reason="DATABASE_AWAY", retry_after=1
            ) from error
        if isinstance(error, BUSY):
            raise Unavailable(
                "The database is busy; try again.", reason="DATABASE_BUSY", retry_after=0.5
            ) from error
        if is_failing(error):
            raise Unavailable(
                "The database has trouble of its own; try again.",
                reason="DATABASE_FAILING",
                retry_after=1,
            ) from error
        raise


async def _nothing_to_reset(connection: asyncpg.Connection) -> None:
    """Replaces asyncpg's reset; see `open_database`."""


async def _keep_alive(connection: asyncpg.Connection) -> None:
    """Has the kernel notice a dead host: asyncpg sets no keepalive of its own."""
    transport = getattr(connection, "_transport", None)
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
