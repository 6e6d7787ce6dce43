"""The command reconcile: is every token that the server counted in the ledger?"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from hma.cli.diagnosis import model_url
from hma.cli.options import DurationType, Output, common
from hma.cli.outcome import COMPLETE, FAILED, examples
from hma.cli.printing import console, show
from hma.cli.reconciling import (
    LedgerSums,
    Reconciliation,
    Verdict,
    busy,
    comparison_table,
    reconcile,
)
from hma.cli.wording import seconds
from hma.client import Client
from hma.errors import NotFound
from hma.llm.counters import ServerCounters, read_counters

_LOOK_EVERY = 0.25
_QUIET_LOOKS = 2
# A server may count a call a moment after it has answered it.
_SETTLE = 3.0


@click.command(
    "reconcile",
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "hma reconcile --for 30s",
        'hma reconcile -- hma run "Which ports?" --doc README.md --budget 4000',
        "hma reconcile --llm http://my-vllm:8000/v1 --route fast --for 10m -o json",
    ),
)
@click.option(
    "--llm",
    metavar="URL",
    help="The model server. Default: HMA_LLM_BASE_URL, else the embedded one.",
)
@click.option("--model", default="", metavar="NAME", help="Only this model's counters.")
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="NAME",
    help="Only these routes of the ledger: those that lead to this server. Repeatable.",
)
@click.option(
    "--for", "period", type=DurationType(), metavar="TIME", help="How long to look on: 30s."
)
@click.option(
    "--patience",
    type=DurationType(),
    default=60.0,
    metavar="TIME",
    help="How long to wait, before and after, until nothing is running. Default: 60s.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@common
@click.pass_context
def reconcile_command(
    ctx: click.Context,
    llm: str | None,
    model: str,
    routes: tuple[str, ...],
    period: float | None,
    patience: float,
    command: tuple[str, ...],
    server: str,
    output: Output,
) -> None:
    """Compare HMA's ledger with what the model server has counted itself.

    Waits until nothing is running, looks for a while or while COMMAND runs, waits
    again, and compares: known <= server <= known + unknown. Exits with 0 when they
    agree, with 4 when they do not or cannot be compared.
    """
    if bool(command) == (period is not None):
        raise click.UsageError("Give --for TIME, or -- COMMAND with its arguments.")
    url = llm or model_url(os.environ)
    key = os.environ.get("HMA_LLM_API_KEY", "")
    with Client(server) as client:
        looking = _Look(client, lambda: read_counters(url, model=model, api_key=key), routes)
        found = _compare(looking, patience, lambda: _spend(period, command, server, output))
    if output == "json":
        click.echo(json.dumps({"reconciliation": found.as_dict()}, ensure_ascii=False))
    else:
        show([comparison_table(found)], console())
        click.echo(f"{url}: {found.sentence}")
    ctx.exit(COMPLETE if found.verdict is Verdict.AGREE else FAILED)


@dataclass(frozen=True, slots=True)
class _Quiet:
    """A moment at which nothing was running.

    Attributes:
        counters: The server's counters then.
        time: Database time; None when something was running all along.
        who: Who was at work, when something was.
    """

    counters: ServerCounters
    time: datetime | None
    who: str = ""


@dataclass(frozen=True, slots=True)
class _Look:
    """Looks at both sides.

    Attributes:
        client: HMA.
        counters: Reads the server's.
        routes: Routes of the ledger that count; empty: all.
    """

    client: Client
    counters: Callable[[], ServerCounters]
    routes: Sequence[str]

    def quiet(self, patience: float) -> _Quiet:
        """Waits until neither HMA nor the server has anything at work."""
        end = time.monotonic() + patience
        looks = 0
        while True:
            counters, status = self.counters(), self.client.status()
            jobs = status.running_jobs + status.queued_jobs
            looks = 0 if jobs or counters.running else looks + 1
            if looks >= _QUIET_LOOKS:
                return _Quiet(counters, status.time.ToDatetime(tzinfo=UTC))
            if time.monotonic() >= end:
                who = "jobs of HMA are running" if jobs else "the server is at work for others"
                return _Quiet(counters, None, f"after {seconds(patience)} {who} still")
            time.sleep(_LOOK_EVERY)

    def ledger(self, since: datetime) -> LedgerSums:
        """What was booked since, and what may have been spent beyond."""
        found = self.client.usage(["route"], since=since)
        unknown = 0
        for job in self.client.list():
            if job.create_time.ToDatetime(tzinfo=UTC) < since:
                break  # the newest come first, and nothing older was running
            with contextlib.suppress(NotFound):  # deleted just now
                unknown += self.client.get(job.job_id).ledger.unknown_tokens
        return LedgerSums.of(found.rows, self.routes, unknown)


def _compare(look: _Look, patience: float, spend: Callable[[], None]) -> Reconciliation:
    before = look.quiet(patience)
    if before.time is None:
        return busy(LedgerSums(), before.who)
    spend()
    after = look.quiet(patience)
    if after.time is None:
        return busy(look.ledger(before.time), after.who)
    end = time.monotonic() + _SETTLE
    found = reconcile(before.counters, after.counters, look.ledger(before.time))
    while found.verdict is Verdict.LEDGER_HAS_MORE and time.monotonic() < end:
        time.sleep(_LOOK_EVERY)
        found = reconcile(before.counters, look.counters(), look.ledger(before.time))
    return found


def _spend(period: float | None, command: Sequence[str], server: str, output: Output) -> None:
    """Lets time pass, or runs the command; its exit code is shown, not passed on."""
    if period is not None:
        time.sleep(period)
        return
    own = [sys.executable, "-m", "hma.cli"] if command[0] == "hma" else [command[0]]
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command
            [*own, *command[1:]],
            env={**os.environ, "HMA_SERVER": server},
            # The one line of JSON has stdout for itself.
            stdout=sys.stderr if output == "json" else None,
        )
    except OSError as error:
        raise click.UsageError(f"{command[0]}: {error.strerror}") from None
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue  # for the command, which decides what it means
    if code:
        click.echo(f"hma: {command[0]} ended with exit code {code}", err=True)
