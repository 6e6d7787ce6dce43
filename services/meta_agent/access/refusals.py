"""Refusals that wait to be written, folded so that no flood of them fills the disk. Pure.

Those alike within a look (a second) are one row with a count. Of one caller and kind, a few
resources are told apart. Each tenant, and all strangers together, may have so many rows for
each in a while; what comes beyond is counted by code and reason alone. So nothing is lost
but detail, and what a flood can write does not depend on how varied it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.meta_agent.store.audit import AuditRow

MOST_RESOURCES = 10
"""Resources of one caller and kind of refusal that a look tells apart."""

BURST = 1_000.0
"""Rows that a tenant, or all strangers, may have at once."""

RATE = 5.0
"""Rows a second that they may have in the long run."""

_MOST_ALLOWANCES = 10_000


@dataclass(slots=True)
class _Allowance:
    """Rows that may be written.

    Attributes:
        rows: How many now.
        since: When that was so.
    """

    rows: float
    since: float

    def take(self, now: float) -> bool:
        """Whether there was one."""
        self.rows = min(BURST, self.rows + RATE * max(now - self.since, 0.0))
        self.since = now
        if self.rows < 1:
            return False
        self.rows -= 1
        return True


@dataclass(slots=True)
class _Counted:
    row: AuditRow
    since: float
    count: int = 0


class Refusals:
    """What was refused since the last look."""

    def __init__(self) -> None:
        self._rows: dict[AuditRow, _Counted] = {}
        self._resources: dict[AuditRow, int] = {}
        self._allowances: dict[str, _Allowance] = {}

    def add(self, row: AuditRow, now: float) -> None:
        """Takes one in.

        Args:
            row: What was refused.
            now: Seconds, of any steady clock.
        """
        kind = replace(row, resource="", request_id="", count=1, age=0.0)
        key = replace(kind, resource=row.resource)
        if key not in self._rows:
            if self._resources.get(kind, 0) >= MOST_RESOURCES:
                key = row = kind
            if key not in self._rows and not self._allowance(row.tenant, now).take(now):
                key = row = AuditRow(
                    tenant=row.tenant, method="(many)", code=row.code, reason=row.reason
                )
            elif key not in self._rows:
                self._resources[kind] = self._resources.get(kind, 0) + 1
        counted = self._rows.setdefault(key, _Counted(row, now))
        counted.count += 1

    def take(self, now: float) -> list[AuditRow]:
        """The rows to be written, which are then no longer here."""
        rows = [
            replace(each.row, count=each.count, age=max(now - each.since, 0.0))
            for each in self._rows.values()
        ]
        self._rows.clear()
        self._resources.clear()
        return rows

    def _allowance(self, tenant: str, now: float) -> _Allowance:
        found = self._allowances.get(tenant)
        if found is None:
            if len(self._allowances) >= _MOST_ALLOWANCES:
                self._allowances.clear()
            found = self._allowances[tenant] = _Allowance(BURST, now)
        return found
