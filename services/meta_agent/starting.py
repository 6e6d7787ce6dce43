"""What a MetaAgent needs before it can serve: a database that answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeVar
from urllib.parse import urlsplit

from hma.errors import Unavailable
from services.meta_agent.store.migrate import migrate

_log = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSE = 0.5
_SAY_EVERY = 5.0


async def wait_for_database(url: str, patience: float, *, pause: float = _PAUSE) -> None:
    """Waits until the database answers, and brings its schema up to date.

    Args:
        url: The database.
        patience: Seconds to wait for it at most.
        pause: Seconds between two tries.

    Raises:
        Unavailable: It did not answer in time.
        SettingsError: It answers, but not to these credentials, or has no such
            database, or its schema does not fit this release.
    """
    loop = asyncio.get_running_loop()
    start = said = loop.time()
    while True:
        try:
            applied = await migrate(url)
        except Unavailable:
            now = loop.time()
            if now - start >= patience:
                raise Unavailable(
                    f"no PostgreSQL answers at {place_of(url)} (waited {patience:g} s): start it, "
                    "or set HMA_DATABASE_URL to where it is",
                    reason="DATABASE_AWAY",
                ) from None
            if now - said >= _SAY_EVERY or said == start:
                said = now
                _log.warning("waiting for PostgreSQL at %s", place_of(url))
            await asyncio.sleep(pause)
        else:
            if applied:
                _log.info("applied %d database migrations", applied)
            return


async def open_on_database(
    url: str,
    patience: float,
    open_: Callable[[], AbstractAsyncContextManager[T]],
    stack: AsyncExitStack,
    *,
    pause: float = _PAUSE,
) -> T:
    """Waits for the database and opens what needs it; again when it went away in between.

    Args:
        url: The database.
        patience: Seconds that this may take at most.
        open_: Makes what is to be opened, anew for each try.
        stack: Closes it.
        pause: Seconds between two tries.

    Raises:
        Unavailable, SettingsError: As `wait_for_database`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while True:
        await wait_for_database(url, max(end - loop.time(), 0.0), pause=pause)
        try:
            return await stack.enter_async_context(open_())
        except Unavailable as error:
            if loop.time() >= end:
                raise
            _log.warning("PostgreSQL went away while the store was opened: %s", error.message)
            await asyncio.sleep(pause)


def place_of(url: str) -> str:
    """Where a database is, without credentials."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "its Unix socket", parts.port
    except ValueError:
        return "the address given"
    return f"{host}:{port}" if port else host
