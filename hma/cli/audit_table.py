"""The audit trail as a table. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from rich.table import Table
from rich.text import Text

from hma.cli.tables import bare
from hma.cli.wording import one_line
from hma.v1 import admin_pb2

_MOST = 80


def audit_table(entries: Sequence[admin_pb2.AuditEntry], *, tenants: bool) -> Table:
    """A row an entry.

    Args:
        entries: In the order in which they are to be read.
        tenants: Whether they are of several tenants, so that each is named.
    """
    grid = bare()
    names = ["time (UTC)", *(["tenant"] if tenants else []), "who", "did", "to", "from", "outcome"]
    for name in names:
        # An id that is cut cannot be looked for.
        grid.add_column(name, overflow="fold")
    for entry in entries:
        time = entry.time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%S")
        grid.add_row(
            time,
            *([_shown(entry.tenant)] if tenants else []),
            _shown(entry.subject),
            _shown(entry.method),
            _shown(entry.resource),
            _shown(entry.address),
            _outcome(entry),
        )
    return grid


def _outcome(entry: admin_pb2.AuditEntry) -> Text:
    if entry.code == "OK":
        return Text("ok", "green")
    # The reason says more than the code, if it is not the same word.
    word = one_line(entry.reason or entry.code, _MOST).replace("_", " ").lower()
    times = f" ×{entry.count:,}" if entry.count > 1 else ""
    return Text(word + times, "yellow")


def _shown(text: str) -> str:
    return one_line(text, _MOST) or "–"
