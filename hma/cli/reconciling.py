"""Ledger against the server's own counters: known <= server <= known + unknown. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from hma.cli.wording import count
from hma.llm.counters import ServerCounters
from hma.v1 import meta_agent_pb2


class Verdict(enum.Enum):
    """What the comparison came to."""

    AGREE = "agree"
    SERVER_HAS_MORE = "server_has_more"
    LEDGER_HAS_MORE = "ledger_has_more"
    RESTARTED = "restarted"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class LedgerSums:
    """What HMA's ledger holds of the same time.

    Attributes:
        prompt: Prompt tokens, cached ones included.
        cached: The part of them that the server had cached.
        completion: Completion tokens.
        upper_bound: Of both: those that are upper bounds.
        unknown: What calls of lost attempts may have cost at most; not in the others.
        calls: LLM calls.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    upper_bound: int = 0
    unknown: int = 0
    calls: int = 0

    @classmethod
    def of(
        cls, rows: Iterable[meta_agent_pb2.UsageRow], routes: Iterable[str], unknown: int
    ) -> LedgerSums:
        """The sum of rows by route.

        Args:
            rows: One a route.
            routes: Only these; empty: all.
            unknown: What may have been spent beyond the rows.
        """
        wanted = set(routes)
        kept = [row for row in rows if not wanted or row.route in wanted]
        return cls(
            prompt=sum(row.prompt_tokens for row in kept),
            cached=sum(row.cached_prompt_tokens for row in kept),
            completion=sum(row.completion_tokens for row in kept),
            upper_bound=sum(row.upper_bound_tokens for row in kept),
            unknown=unknown,
            calls=sum(row.calls for row in kept),
        )


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The comparison.

    Attributes:
        verdict: What it came to.
        sentence: The verdict in words.
        server: What the server has counted in that time; None when that is not known.
        ledger: What HMA has booked.
        known: Tokens of the ledger that the server must have counted.
        at_most: Tokens that the server may have counted at most.
    """

    verdict: Verdict
    sentence: str
    server: ServerCounters | None
    ledger: LedgerSums
    known: int
    at_most: int

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "verdict": self.verdict.value,
            "sentence": self.sentence,
            "server": None if self.server is None else asdict(self.server),
            "ledger": asdict(self.ledger),
            "known_tokens": self.known,
            "at_most_tokens": self.at_most,
        }


def reconcile(before: ServerCounters, after: ServerCounters, ledger: LedgerSums) -> Reconciliation:
    """Compares what was counted between two looks with what was booked between them.

    A server that leaves cached prompt tokens out is compared without them. With upper
    bounds and unknown tokens the sum must lie between; without, prompt and completion
    must each be equal.
    """
    prompt = ledger.prompt - ledger.cached if after.fresh_only else ledger.prompt
    booked = prompt + ledger.completion
    known, at_most = booked - ledger.upper_bound, booked + ledger.unknown
    server = after.since(before)

    def result(verdict: Verdict, sentence: str) -> Reconciliation:
        return Reconciliation(verdict, sentence, server, ledger, known, at_most)

    if server is None:
        return result(
            Verdict.RESTARTED, "the server was restarted meanwhile: its counters have fallen"
        )
    if server.total > at_most or (known == at_most and server.completion > ledger.completion):
        more = max(server.total - at_most, server.completion - ledger.completion)
        return result(
            Verdict.SERVER_HAS_MORE,
            f"the server has counted {count(more, 'token')} more than HMA can have used: it "
            "serves others too (another HMA, another client), or HMA has lost track of a call",
        )
    if server.total < known or (known == at_most and server.completion < ledger.completion):
        less = max(known - server.total, ledger.completion - server.completion)
        return result(
            Verdict.LEDGER_HAS_MORE,
            f"HMA has booked {count(less, 'token')} that this server has not counted: other "
            "routes lead to other servers (choose with --route), or a model was left out",
        )
    note = " (cached prompt tokens aside: this server does not count them)" * after.fresh_only
    if not at_most and not server.total:
        return result(Verdict.AGREE, "they agree: neither has counted anything in that time")
    if known == at_most:
        return result(Verdict.AGREE, f"they agree to the token{note}")
    return result(
        Verdict.AGREE,
        f"they agree: {known:,} known <= {server.total:,} counted <= {at_most:,}{note}",
    )


def busy(ledger: LedgerSums, who: str) -> Reconciliation:
    """There was no moment at which nothing was running: nothing can be compared."""
    return Reconciliation(Verdict.BUSY, who, None, ledger, 0, 0)


def comparison_table(found: Reconciliation) -> Table:
    """Both sides, one below the other."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column("", no_wrap=True)
    for name in ("prompt", "cached", "completion", "total"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    server, ledger = found.server, found.ledger
    if server is not None:
        cached = "–" if server.cached is None else f"{server.cached:,}"
        note = "prompt without cached" if server.fresh_only else ""
        row = (f"{server.prompt:,}", cached, f"{server.completion:,}", f"{server.total:,}", note)
        grid.add_row("server", *row)
    total = ledger.prompt + ledger.completion
    figures = (ledger.prompt, ledger.cached, ledger.completion, total)
    grid.add_row("ledger", *(f"{figure:,}" for figure in figures), count(ledger.calls, "call"))
    if ledger.upper_bound:
        grid.add_row("  upper bounds", "", "", "", f"{ledger.upper_bound:,}", "within the ledger")
    if ledger.unknown:
        grid.add_row("unknown", "", "", "", f"{ledger.unknown:,}", "at most, of lost calls")
    return grid
