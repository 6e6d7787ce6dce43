"""What a MetaAgent needs before it can serve: a database that answers."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

from hma.errors import Unavailable
from services.meta_agent.store.migrate import migrate

_log = logging.getLogger(__name__)

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


def place_of(url: str) -> str:
    """Where a database is, without credentials."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "its Unix socket", parts.port
    except ValueError:
        return "the address given"
    return f"{host}:{port}" if port else host
