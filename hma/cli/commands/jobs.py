"""Commands on jobs that exist: get, list, interrupt, cancel, grant, delete."""

from __future__ import annotations

import time
from collections.abc import Iterable

import click
from rich.table import Table
from rich.text import Text

from hma.cli.live import JOB_STYLES
from hma.cli.options import DurationType, JobIdType, MoneyType, Output, TokensType, common
from hma.cli.outcome import BY_STATE, COMPLETE, UNEXPECTED, examples
from hma.cli.printing import console, json_line, show
from hma.cli.reading import when
from hma.cli.report import report, verdict
from hma.cli.wording import clean, one_line, seconds, word
from hma.client import Client
from hma.client.requests import ended
from hma.errors import DeadlinePassed
from hma.v1 import job_pb2

_STATES = [
    name.removeprefix("JOB_STATE_").lower()
    for name in job_pb2.JobState.keys()  # noqa: SIM118 - an enum wrapper, no mapping
    if name != "JOB_STATE_UNSPECIFIED"
]
_reason = click.option("--reason", default="", metavar="TEXT", help="Why; kept in the job's log.")
_job = click.argument("job", type=JobIdType())


@click.command(
    epilog=examples(
        "hma get job-01k0…",
        "hma get job-01k0… --wait 60s",
        "hma get job-01k0… -o json | jq -r .answer.text",
    )
)
@_job
@click.option(
    "--wait",
    type=DurationType(),
    metavar="TIME",
    help="Wait for its end, but no longer; the exit code is then the job's outcome, "
    "1 when it has not ended.",
)
@common
@click.pass_context
def get(ctx: click.Context, job: str, wait: float | None, server: str, output: Output) -> None:
    """Show a job as it is: answer, what is missing, ledger, timings."""
    with Client(server) as client:
        found = client.get(job) if wait is None else _waited(client, job, wait)
    if output == "json":
        json_line(found)
    else:
        out = console()
        show(report(found, markdown=out.is_terminal), out)
    ctx.exit(COMPLETE if wait is None else BY_STATE.get(found.state, UNEXPECTED))


def _waited(client: Client, job: str, wait: float) -> job_pb2.Job:
    try:
        return client.wait(job, wait)
    except DeadlinePassed:
        found = client.get(job)
        if not ended(found):
            click.echo(f"hma: it has not ended after {seconds(wait)}; it goes on", err=True)
        return found


@click.command(
    "list",
    epilog=examples(
        "hma list",
        "hma list --state running --state queued",
        "hma list -n 1000 -o json | jq -r 'select(.state == \"JOB_STATE_FAILED\") | .job_id'",
    ),
)
@click.option(
    "--state", "states", type=click.Choice(_STATES), multiple=True, help="Only these; repeatable."
)
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="At most this many.",
)
@common
def list_jobs(states: tuple[str, ...], limit: int, server: str, output: Output) -> None:
    """List jobs, the newest first."""
    wanted = [job_pb2.JobState.Value(f"JOB_STATE_{state.upper()}") for state in states]
    with Client(server) as client:
        jobs = client.list(states=wanted, limit=limit)
        if output == "json":
            for job in jobs:
                json_line(job)
            return
        rows = list(jobs)
    if rows:
        show([_table(rows, time.time())], console())
    else:
        click.echo('No jobs. Make one: hma run "…" --doc FILE --budget 5000')


def _table(jobs: Iterable[job_pb2.Job], now: float) -> Table:
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", expand=True)
    for name in ("job", "state"):
        grid.add_column(name, no_wrap=True)
    for name in ("age", "budget"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("task", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        grid.add_row(
            clean(job.job_id),
            Text(word(job_pb2.JobState, job.state), JOB_STYLES.get(job.state, "")),
            seconds(now - when(job.create_time)),
            f"{job.budget.max_tokens:,}",
            one_line(job.task_description, 200),
        )
    return grid


@click.command(epilog=examples("hma interrupt job-01k0… && hma get job-01k0… --wait 30s"))
@_job
@_reason
@common
def interrupt(job: str, reason: str, server: str, output: Output) -> None:
    """Ask a job to stop working and answer now with what it has."""
    with Client(server) as client:
        _changed(client.interrupt(job, reason), output)


@click.command(epilog=examples('hma cancel job-01k0… --reason "wrong documents"'))
@_job
@_reason
@common
def cancel(job: str, reason: str, server: str, output: Output) -> None:
    """Stop a job without an answer. What it has spent stays spent."""
    with Client(server) as client:
        _changed(client.cancel(job, reason), output)


@click.command(epilog=examples("hma grant job-01k0… 2000", "hma grant job-01k0… --cost 0.02"))
@_job
@click.argument("tokens", type=TokensType(), required=False)
@click.option("--cost", type=MoneyType(), default=0.0, metavar="MONEY", help="Money to add.")
@common
def grant(job: str, tokens: int | None, cost: float, server: str, output: Output) -> None:
    """Add TOKENS, money or both to the budget of a job that has not ended."""
    if not tokens and not cost:
        raise click.UsageError("Give TOKENS, --cost MONEY, or both.")
    with Client(server) as client:
        _changed(client.grant(job, tokens or 0, cost), output)


@click.command(
    epilog=examples(
        "hma delete job-01k0…",
        "hma list --state cancelled -o json | jq -r .job_id | xargs hma delete",
    )
)
@click.argument("jobs", type=JobIdType(), nargs=-1, required=True, metavar="JOB...")
@common
def delete(jobs: tuple[str, ...], server: str, output: Output) -> None:
    """Purge ended jobs: their documents and their logs. There is no way back."""
    with Client(server) as client:
        for job in jobs:
            client.delete(job)
            if output == "text":
                click.echo(f"deleted {job}")


def _changed(job: job_pb2.Job, output: Output) -> None:
    if output == "json":
        json_line(job)
    else:
        show([verdict(job)], console())
