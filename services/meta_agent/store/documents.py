"""The content of a job's documents, in parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from hma.errors import NotFound
from hma.v1 import task_pb2
from services.meta_agent.store.database import Connection, Database

PART_BYTES = 256 * 1024
"""Bytes in a part: what one stored row and one message to a reader hold at most."""

_INSERT = """
INSERT INTO job_document (job_id, document_id, part, parts, content) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""
_READ = """
SELECT content, parts FROM job_document WHERE job_id = $1 AND document_id = $2 AND part = $3
"""


class Documents:
    """Reads documents. They are written with their job (`Jobs.create`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, job_id: str, document_id: str) -> AsyncIterator[bytes]:
        """Yields a document's content in parts of at most 256 KiB.

        One short statement a part: a slow reader holds neither a connection nor a
        transaction, and no more than one part is in memory.

        Raises:
            NotFound: There is no such document, or it was deleted meanwhile.
            Unavailable: The database cannot be reached.
        """
        part, parts = 0, 1
        while part < parts:
            row = await self._database.fetchrow(_READ, job_id, document_id, part)
            if row is None:
                raise NotFound(f"Job {job_id} has no document {document_id}.")
            yield row["content"]
            part, parts = part + 1, row["parts"]


async def insert_documents(
    connection: Connection,
    job_id: str,
    documents: Sequence[tuple[task_pb2.DocumentRef, bytes]],
) -> None:
    """Writes documents inside the caller's transaction, without copying them whole.

    Those that are there already stay: the job was made, and the reply was lost.
    """
    await connection.executemany(_INSERT, _parts(job_id, documents))


def _parts(
    job_id: str, documents: Sequence[tuple[task_pb2.DocumentRef, bytes]]
) -> Iterator[tuple[str, str, int, int, memoryview]]:
    for ref, content in documents:
        view = memoryview(content)
        parts = max(1, -(-len(content) // PART_BYTES))
        for part in range(parts):
            start = part * PART_BYTES
            yield job_id, ref.document_id, part, parts, view[start : start + PART_BYTES]
