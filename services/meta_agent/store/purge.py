"""Deletes all content of jobs: the one place that knows which tables hold any."""

from __future__ import annotations

from collections.abc import Sequence

from services.meta_agent.store.database import Connection

_PURGE = (
    "DELETE FROM job_document WHERE job_id = ANY($1::text[])",
    "DELETE FROM job_event WHERE job_id = ANY($1::text[])",
    "DELETE FROM job WHERE id = ANY($1::text[])",
)


async def purge(connection: Connection, job_ids: Sequence[str], *, timeout: float) -> None:
    """Deletes documents, logs and rows. What the jobs cost stays in the ledger.

    Args:
        connection: In a transaction that holds the rows' locks.
        job_ids: The jobs; sealed.
        timeout: Seconds that a statement may take, seen from this side.
    """
    for statement in _PURGE:
        await connection.execute(statement, list(job_ids), timeout=timeout)
