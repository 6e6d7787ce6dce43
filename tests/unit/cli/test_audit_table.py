"""The audit trail as people read it."""

from __future__ import annotations

from rich.console import Console

from hma.cli.audit_table import audit_table
from hma.v1 import admin_pb2


def printed(*entries: admin_pb2.AuditEntry, tenants: bool = False) -> list[str]:
    # As hma.cli.printing makes it: what is printed is text, never markup.
    to = Console(width=140, highlight=False, emoji=False, markup=False)
    with to.capture() as captured:
        to.print(audit_table(entries, tenants=tenants))
    return captured.get().splitlines()


def entry(**fields: object) -> admin_pb2.AuditEntry:
    made = admin_pb2.AuditEntry(
        **{  # type: ignore[arg-type]
            "tenant": "acme",
            "subject": "key:k1",
            "method": "CreateJob",
            "resource": "job-1",
            "address": "10.0.0.9",
            "code": "OK",
            "count": 1,
            **fields,
        }
    )
    made.time.FromJsonString("2026-11-25T08:15:00.5Z")
    return made


def test_an_entry_says_who_did_what_to_what_from_where_and_how_it_ended() -> None:
    header, row = printed(entry())
    assert header.split() == ["time", "(UTC)", "who", "did", "to", "from", "outcome"]
    assert row.split() == [
        *("2026-11-25", "08:15:00", "key:k1", "CreateJob", "job-1", "10.0.0.9", "ok")
    ]


def test_a_refusal_says_why_and_how_often() -> None:
    refused = entry(subject="", resource="", code="UNAUTHENTICATED", reason="KEY_REVOKED", count=12)
    _, row = printed(refused, tenants=True)
    assert row.split()[2:] == ["acme", "–", "CreateJob", "–", "10.0.0.9", "key", "revoked", "×12"]


def test_what_strangers_wrote_is_shown_as_text() -> None:
    _, row = printed(entry(method="GET /[red]\x1b[2J\u202ex"))
    assert "GET /[red][2Jx" in row
