"""Brings the database's schema to what this release needs.

Why no migration library: those that are well kept (alembic, yoyo) go through a
synchronous driver, which would be a second driver with settings, bugs and an error
tree of its own, for what is numbered SQL files and one table here.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import asyncpg

from hma.errors import SettingsError
from services.meta_agent.store.database import connect, reachable, valid_url

_ADVISORY_LOCK = 0x48_4D_41_01
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step.

    Attributes:
        number: From 1, without gaps.
        name: File name without the number.
        sql: Its statements, run in one transaction.
    """

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements, hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations() -> list[Migration]:
    """The migrations of this release, in order."""
    files = (resources.files(__package__) / "migrations").iterdir()
    found = [
        Migration(int(match[1]), match[2], file.read_text("utf-8"))
        for file in files
        if (match := re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name))
    ]
    return sorted(found, key=lambda migration: migration.number)


async def migrate(url: str, migrations: Sequence[Migration] | None = None) -> int:
    """Applies what the database lacks. Several processes may do so at once.

    Args:
        url: The database.
        migrations: This release's when None.

    Returns:
        How many were applied.

    Raises:
        SettingsError: The database has a migration that this release does not know,
            or one that was edited since.
        Unavailable: The database cannot be reached.
    """
    known = known_migrations() if migrations is None else list(migrations)
    with reachable(), valid_url():
        # Waiting for the other process and building an index take longer than
        # anything else that is allowed to run.
        connection = await connect(
            url,
            name="hma-migrate",
            settings={"statement_timeout": "600000", "lock_timeout": "60000"},
        )
        try:
            return await _apply(connection, known)
        finally:
            await asyncio.shield(connection.close(timeout=5))


async def _apply(connection: asyncpg.Connection, known: Sequence[Migration]) -> int:
    await connection.execute("SELECT pg_advisory_lock($1)", _ADVISORY_LOCK, timeout=120)
    await connection.execute(_TABLE)
    rows = await connection.fetch("SELECT number, name, checksum FROM schema_migration")
    applied = {row["number"]: row for row in rows}
    _refuse_what_differs(applied, known)
    missing = [migration for migration in known if migration.number not in applied]
    for migration in missing:
        async with connection.transaction():
            await connection.execute(migration.sql, timeout=600)
            await connection.execute(
                "INSERT INTO schema_migration (number, name, checksum) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.checksum,
            )
    return len(missing)


def _refuse_what_differs(applied: dict[int, asyncpg.Record], known: Sequence[Migration]) -> None:
    by_number = {migration.number: migration for migration in known}
    newest = max(by_number, default=0)
    for number, row in sorted(applied.items()):
        migration = by_number.get(number)
        if migration is None:
            raise SettingsError(
                f"The database has migration {number:04d}_{row['name']}, this release knows "
                f"none after {newest:04d}: it is older than the database. Run the newer release."
            )
        if migration.checksum != row["checksum"]:
            raise SettingsError(
                f"Migration {number:04d}_{migration.name} was edited after it was applied to "
                "this database. Restore the file and put the change into a new migration."
            )
