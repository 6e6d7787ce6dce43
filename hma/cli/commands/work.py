"""Commands that make a job or follow one: run, submit, watch."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from hma.cli.following import LEAVE_HINT, STOP_HINT, Follower, LeftRunningError
from hma.cli.options import JobIdType, Output, common, job_spec
from hma.cli.outcome import BY_STATE, LEFT, UNEXPECTED, examples
from hma.cli.presenting import Showing
from hma.cli.printing import json_line
from hma.client import AsyncClient, Client
from hma.v1 import job_pb2


@click.command(
    epilog=examples(
        'hma run "Which ports are used, and by what?" --doc README.md --budget 4000',
        "hma run @questions.txt --doc docs/*.md --budget 20k --deadline 2m",
        'hma run "Compare the offers." offers/*.md -b 30k --shape team',
        'hma run "Which ports?" --doc README.md --max-cost 0.02',
        "git diff | hma run - -b 8000",
        "hma run \"…\" -b 4000 -o json | jq -c 'select(.event)'",
    )
)
@job_spec
@common
@click.pass_context
def run(ctx: click.Context, spec: dict[str, Any], server: str, output: Output) -> None:
    """Run a job and show it live, then its answer, ledger and timings.

    TASK is what you want, in as many words as it takes; "-" reads it from standard
    input, "@FILE" from a file. Each FILE is a document to work from.

    Ctrl-C asks for the answer now, with what is there; a second Ctrl-C cancels the
    job; a third one leaves it alone.

    With --output json every line is {"event": …} or {"progress": …}, as WatchJob sends
    them, and the last one is {"job": …}.
    """
    job = asyncio.run(submit_and_follow(spec, server, Showing(output, STOP_HINT)))
    ctx.exit(LEFT if job is None else BY_STATE.get(job.state, UNEXPECTED))


@click.command(
    epilog=examples(
        'job=$(hma submit "Summarise the minutes." --doc minutes.md --budget 6000)',
        'hma watch "$job"',
        'hma submit "…" -b 4000 --request-id order-66   # sent twice, made once',
    )
)
@job_spec
@common
def submit(spec: dict[str, Any], server: str, output: Output) -> None:
    """Submit a job, print its id and return at once.

    TASK is what you want, in as many words as it takes; "-" reads it from standard
    input, "@FILE" from a file. Each FILE is a document to work from.
    """
    with Client(server) as client:
        job_id = client.submit(**spec)
        if output == "json":
            json_line(client.get(job_id))
            return
    click.echo(job_id)
    click.echo(f"hma: follow it with: hma watch {job_id}", err=True)


@click.command(
    epilog=examples(
        "hma watch job-01k0…",
        "hma watch job-01k0… -o json | jq -r '.event.state_changed.reason // empty'",
    )
)
@click.argument("job", type=JobIdType())
@common
@click.pass_context
def watch(ctx: click.Context, job: str, server: str, output: Output) -> None:
    """Follow a job live, from its beginning, until it has ended.

    Ctrl-C stops the watching, never the job. Exits by the job's outcome.
    """

    async def follow() -> job_pb2.Job | None:
        async with AsyncClient(server) as client:
            return await _follow(client, job, Showing(output, LEAVE_HINT), may_stop=False)

    ended = asyncio.run(follow())
    ctx.exit(LEFT if ended is None else BY_STATE.get(ended.state, UNEXPECTED))


async def submit_and_follow(
    spec: dict[str, Any], server: str, showing: Showing
) -> job_pb2.Job | None:
    """Runs a job under the eyes of the user, and prints it when it has ended.

    Args:
        spec: Keyword arguments of `hma.AsyncClient.submit`.
        server: Where HMA is.
        showing: How to show it.

    Returns:
        The ended job; None when the user left it running.
    """
    async with AsyncClient(server) as client:
        job_id = await client.submit(**spec)
        return await _follow(client, job_id, showing, may_stop=True)


async def _follow(
    client: AsyncClient, job_id: str, showing: Showing, *, may_stop: bool
) -> job_pb2.Job | None:
    follower = Follower(client, job_id, showing.presenter, may_stop=may_stop)
    try:
        job = await follower.follow()
    except LeftRunningError:
        click.echo(f"hma: the job goes on; come back with: hma watch {job_id}", err=True)
        return None
    showing.ended(job)
    return job
