"""Writes refusals into the audit trail, behind the calls that are refused.

A mutation that took effect is written by its own transaction (`store.audit`); a refusal
has none, and must not make the caller, or the database, pay for each try. So refusals wait
here for a second, folded. A process that is killed loses that second; while the database
is away, so many rows are kept as `_MOST_WAITING`, and what is dropped is counted.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace

from prometheus_client import CollectorRegistry, Counter

from hma.errors import HmaError
from hma.rpc.status import code_of
from hma.telemetry.credentials import without_credentials
from services.meta_agent.access.refusals import Refusals
from services.meta_agent.store.audit import AuditBook, AuditRow
from services.meta_agent.store.database import FAILED

_log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two writes."""

_MOST_WAITING = 10_000
_BATCH = 1_000
_LAST_WRITE = 3.0
_RPC_PATH = re.compile(r"(?:POST )?/hma\.v1\.\w+/(\w{1,64})")


class AuditTrail:
    """Takes in what was refused, and writes it; told by whoever refuses."""

    def __init__(
        self,
        book: AuditBook,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Writes nothing yet.

        Args:
            book: Where it is written.
            registry: Where it is counted.
            clock: Steady seconds.
        """
        self._book = book
        self._clock = clock
        self._refusals = Refusals()
        self._waiting: list[tuple[AuditRow, float]] = []
        self._written = Counter(
            "hma_audit_refusals_written",
            "Rows of refused calls that were written into the audit trail",
            registry=registry,
        )
        self._dropped = Counter(
            "hma_audit_refusals_dropped",
            "Rows of refused calls that were dropped because the database was away too long",
            registry=registry,
        )

    def denied(
        self,
        *,
        subject: str,
        tenant: str,
        method: str,
        address: str,
        request_id: str,
        reason: str,
        code: str,
        resource: str = "",
    ) -> None:
        """A call was refused at the door. Neither waits nor raises.

        Args:
            subject: Who it was, as far as that is known.
            tenant: Whose trail it belongs in; "" when that is not known.
            method: The RPC, or verb and path of what the gateway was asked for.
            address: Where the call came from.
            request_id: The gateway's id of the request.
            reason: ErrorInfo's reason.
            code: The gRPC code.
            resource: The job, key or tenant that the call names.
        """
        self.note(
            AuditRow(
                tenant=tenant,
                subject=subject,
                method=method_of(method),
                resource=resource,
                address=address,
                request_id=request_id,
                code=code,
                reason=reason,
            )
        )

    def stranger(self, method: str, address: str, error: HmaError) -> None:
        """A call between services was refused: nobody knows who it was.

        Args:
            method: The RPC.
            address: The peer's.
            error: Why.
        """
        self.note(
            AuditRow(
                method=method_of(method),
                address=address,
                code=code_of(error).name,
                reason=error.reason,
            )
        )

    def note(self, row: AuditRow) -> None:
        """Takes in what did not take effect; it is written within a second."""
        self._refusals.add(row, self._clock())

    async def confirm(self, row: AuditRow) -> None:
        """Writes what took effect without a transaction of its own, before that is told.

        Raises:
            Unavailable: The database cannot be reached.
        """
        await self._book.append([row])

    async def run(self) -> None:
        """Writes until cancelled, and then what is left."""
        try:
            while True:
                await asyncio.sleep(INTERVAL)
                await self.flush()
        finally:
            try:
                await asyncio.wait_for(self.flush(), _LAST_WRITE)
            except TimeoutError:
                _log.warning("the last refusals were not written in time")

    async def flush(self) -> None:
        """Writes what waits; what cannot be written waits on."""
        now = self._clock()
        self._waiting += [(row, now - row.age) for row in self._refusals.take(now)]
        self._keep_most()
        while self._waiting:
            batch = self._waiting[:_BATCH]
            try:
                # After a reply that was lost, they are written twice: better than not.
                await self._book.append([replace(row, age=now - since) for row, since in batch])
            except FAILED as error:
                _log.warning(
                    "cannot write refusals into the audit trail now: %s",
                    type(error).__name__,
                    extra={"waiting": len(self._waiting)},
                )
                return
            del self._waiting[: len(batch)]
            self._written.inc(len(batch))

    def _keep_most(self) -> None:
        over = len(self._waiting) - _MOST_WAITING
        if over > 0:
            del self._waiting[_MOST_WAITING:]
            self._dropped.inc(over)
            _log.error("refusals are missing in the audit trail", extra={"dropped": over})


def method_of(text: str) -> str:
    """A call's name: that of the RPC, or verb and path, without query and credentials."""
    rpc = _RPC_PATH.fullmatch(text)
    return rpc[1] if rpc else without_credentials(text.partition("?")[0])
