"""The audit trail: who did what. Appended, read, and deleted by age alone.

A mutation that took effect is in the trail, because its row is written by the transaction
that makes it: the call that is served says who calls (`serving`), and the statements that
change something put the row beside the change (`write`, `writing`). Refusals change
nothing; they are written in batches, by `append`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import astuple, dataclass, field, replace
from datetime import datetime, timedelta

import asyncpg

from hma.errors import InvalidRequest
from hma.telemetry.credentials import without_credentials
from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.page_token import pack, unpack

LEAST_AGE = 86_400.0
"""Seconds for which every row stays, whatever the retention; the trigger sees to it."""

_ADVISORY_LOCK = 0x48_4D_41_03
_MAX_ID = 2**63 - 1
_MOST_CHARS = 200
_UNFIT = "\ufffd"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """What somebody did, or tried to do. Texts are cut, and cleaned of what is not print.

    Attributes:
        tenant: Whose trail it is in; empty when the caller is not known.
        subject: Who; empty when not known.
        method: What.
        resource: The job, key or tenant that it was done to; empty: none.
        address: From where.
        request_id: The gateway's id of the request.
        code: The gRPC code it ended with.
        reason: `ErrorInfo.reason` of a refusal.
        count: How many there were of the kind.
        age: Seconds that have passed since.
    """

    tenant: str = ""
    subject: str = ""
    method: str
    resource: str = ""
    address: str = ""
    request_id: str = ""
    code: str = "OK"
    reason: str = ""
    count: int = 1
    age: float = 0.0

    def __post_init__(self) -> None:
        for name in _TEXTS:
            object.__setattr__(self, name, fit(getattr(self, name)))


_TEXTS = (
    "tenant",
    "subject",
    "method",
    "resource",
    "address",
    "request_id",
    "code",
    "reason",
)
_COLUMNS = ", ".join((*_TEXTS, "count"))
_TYPES = ("text",) * len(_TEXTS) + ("int", "float8")
_INSERT = f"""
INSERT INTO audit_entry ({_COLUMNS}, time)
SELECT {_COLUMNS}, clock_timestamp() - make_interval(secs => age)
FROM unnest({", ".join(f"${n}::{kind}[]" for n, kind in enumerate(_TYPES, 1))})
  AS r ({_COLUMNS}, age)
"""  # noqa: S608 - the columns above
_EXPIRE = """
DELETE FROM audit_entry WHERE id IN (SELECT id FROM audit_entry ORDER BY id LIMIT $2)
  AND time < clock_timestamp() - $1::interval
"""


def fit(text: str) -> str:
    """`text` as it may stand in the trail: one line, not too long, without a credential."""
    cut = without_credentials(text)[:_MOST_CHARS]
    return cut if cut.isprintable() else "".join(c if c.isprintable() else _UNFIT for c in cut)


@dataclass(slots=True)
class Deed:
    """A mutation that is being served.

    Attributes:
        row: Who does it.
        written: A transaction that holds its row has been committed.
    """

    row: AuditRow
    written: bool = field(default=False, init=False)


_served: ContextVar[Deed | None] = ContextVar("deed", default=None)


@contextlib.contextmanager
def serving(row: AuditRow) -> Iterator[Deed]:
    """What is changed inside is done by who is named in `row`."""
    deed = Deed(row)
    token = _served.set(deed)
    try:
        yield deed
    finally:
        _served.reset(token)


async def write(connection: Connection, resource: str) -> None:
    """Writes the row of the call that is served, inside the transaction that serves it.

    Work that nobody has called for, such as a driver's, has none. Call `written` once the
    transaction is committed.

    Args:
        connection: In the transaction.
        resource: What it is done to.
    """
    deed = _served.get()
    if deed is not None:
        await connection.execute(_INSERT, *_arrays([replace(deed.row, resource=resource)]))


def written() -> None:
    """The transaction in which `write` was called has been committed."""
    deed = _served.get()
    if deed is not None:
        deed.written = True


def writing(first: int, moved: str) -> str:
    """The part of a statement that writes the row: what follows `audited AS`.

    Args:
        first: Number of the first of its parameters, which `writing_args` gives.
        moved: A FROM item that has a row, with `id` of the job, if there was a change.
    """
    texts = [name for name in _TEXTS if name != "resource"]
    values = ", ".join(f"${place}::text" for place in range(first, first + len(texts)))
    return f"""(
    INSERT INTO audit_entry ({", ".join(texts)}, resource, count)
    SELECT {values}, m.id, 1 FROM {moved} m WHERE ${first}::text IS NOT NULL
)"""  # noqa: S608 - numbers and names of this module's callers


def writing_args() -> list[str | None]:
    """The parameters of `writing`: none but NULL when nobody has called."""
    deed = _served.get()
    names = [name for name in _TEXTS if name != "resource"]
    return [getattr(deed.row, name) if deed is not None else None for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """What is asked of the trail.

    Attributes:
        tenant: Whose; None for all, those of no tenant included.
        resource: Only what was done to it; empty: all.
        refused_only: Only what did not end with OK.
        start: From this time on; None: from the first.
        size: Rows of a page at most.
        token: From the page before, made for the same question.
    """

    tenant: str | None
    resource: str = ""
    refused_only: bool = False
    start: datetime | None = None
    size: int = 100
    token: str = ""


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Rows, the latest first.

    Attributes:
        rows: With `id`, `time` and the fields of AuditRow, but for `age`.
        next_token: For the page after; empty on the last.
    """

    rows: list[asyncpg.Record]
    next_token: str


class AuditBook:
    """The trail of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, rows: Sequence[AuditRow]) -> None:
        """Writes rows.

        Raises:
            Unavailable: The database cannot be reached; whether they are written is not known.
        """
        await self._database.execute(_INSERT, *_arrays(rows))

    async def page(self, query: AuditQuery) -> AuditPage:
        """Reads a page.

        Raises:
            InvalidRequest: The token is not one of this list.
            Unavailable: The database cannot be reached.
        """
        filters = (query.tenant, query.resource, query.refused_only, query.start)
        statement, args = _statement(query, _place(query.token, filters))
        rows = await self._database.fetch(statement, *args)
        shown = rows[: query.size]
        more = len(rows) > query.size
        return AuditPage(shown, pack([shown[-1]["id"]], filters) if more else "")

    async def expire(self, age: float, batch: int) -> int | None:
        """Deletes the oldest rows, as far as they are older than `age`.

        Args:
            age: Seconds; a day at least.
            batch: At most this many rows.

        Returns:
            How many; None when another replica is at it.

        Raises:
            Unavailable: The database cannot be reached or is busy; nothing was deleted.
        """
        seconds = max(age, LEAST_AGE)
        async with self._database.connection() as connection, connection.transaction():
            if not await connection.fetchval(
                "SELECT pg_try_advisory_xact_lock($1)", _ADVISORY_LOCK
            ):
                return None
            await connection.execute(
                "SELECT set_config('hma.audit_retention', $1, true)", f"{seconds:f}"
            )
            done = await connection.execute(_EXPIRE, timedelta(seconds=seconds), batch)
        return int(done.rpartition(" ")[2])


def _arrays(rows: Sequence[AuditRow]) -> list[list[object]]:
    return [list(column) for column in zip(*map(astuple, rows), strict=True)]


def _statement(query: AuditQuery, before: int) -> tuple[str, list[object]]:
    """Only the conditions that there are, so that each kind of question finds its index."""
    args: list[object] = [before, query.size + 1]
    conditions = ["id < $1"]
    for condition, value in (
        ("tenant = ${}", query.tenant),
        ("resource = ${} AND resource <> ''", query.resource or None),
        ("time >= ${}", query.start),
    ):
        if value is not None:
            args.append(value)
            conditions.append(condition.format(len(args)))
    if query.refused_only:
        conditions.append("code <> 'OK'")
    return (
        f"SELECT id, time, {_COLUMNS} FROM audit_entry "  # noqa: S608 - texts of this module
        f"WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT $2",
        args,
    )


def _place(token: str, filters: Sequence[object]) -> int:
    """The id that the page before ended with."""
    if not token:
        return _MAX_ID
    match unpack(token, filters):
        case [int(place)] if 0 <= place <= _MAX_ID:
            return place
    raise InvalidRequest.field("page_token", "is not one of this list")
