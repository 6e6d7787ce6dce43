"""Migrations: once, by anyone, never against a schema that does not fit."""

from __future__ import annotations

import asyncio
import dataclasses

import asyncpg
import pytest

from hma.errors import SettingsError, Unavailable
from services.meta_agent.store.migrate import Migration, known_migrations, migrate


async def test_several_processes_migrate_at_once(postgres_url: str) -> None:
    applied = await asyncio.gather(*(migrate(postgres_url) for _ in range(5)))
    assert sorted(applied) == [0, 0, 0, 0, len(known_migrations())]


async def test_migrations_are_numbered_without_gaps() -> None:
    numbers = [m.number for m in known_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_what_is_missing_is_added(postgres_url: str) -> None:
    known = known_migrations()
    await migrate(postgres_url)
    more = Migration(len(known) + 1, "more", "CREATE TABLE more (x int); CREATE TABLE two ()")
    assert await migrate(postgres_url, [*known, more]) == 1
    assert await migrate(postgres_url, [*known, more]) == 0


async def test_an_edited_migration_is_refused(postgres_url: str) -> None:
    known = known_migrations()
    await migrate(postgres_url)
    edited = dataclasses.replace(known[0], sql=known[0].sql + "\n-- harmless")
    with pytest.raises(SettingsError, match=r"0001_job_log was edited"):
        await migrate(postgres_url, [edited, *known[1:]])


async def test_a_newer_database_is_refused(postgres_url: str) -> None:
    known = known_migrations()
    newer = Migration(len(known) + 1, "from_the_future", "CREATE TABLE future ()")
    await migrate(postgres_url, [*known, newer])
    with pytest.raises(SettingsError, match=r"from_the_future.*older than the database"):
        await migrate(postgres_url)


async def test_a_migration_that_fails_leaves_nothing(postgres_url: str) -> None:
    broken = Migration(1, "broken", "CREATE TABLE half (); SELECT 1/0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(postgres_url, [broken])
    assert await migrate(postgres_url) == len(known_migrations())


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await migrate("postgresql://postgres@127.0.0.1:1/none")


async def test_a_url_that_is_none_is_a_settings_error() -> None:
    with pytest.raises(SettingsError):
        await migrate("mysql://somewhere")


async def test_a_database_that_does_not_exist_is_a_settings_error(postgres_url: str) -> None:
    missing = postgres_url.replace("/test_", "/missing_")
    assert missing != postgres_url
    with pytest.raises(SettingsError, match="3D000"):
        await migrate(missing)
