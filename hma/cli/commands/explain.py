"""`hma explain`: why a job went as it did."""

from __future__ import annotations

import click

from hma.cli.explaining import explanation
from hma.cli.options import JobIdType, Output, common
from hma.cli.outcome import examples
from hma.cli.printing import console, json_line, show
from hma.client import Client


@click.command(
    epilog=examples(
        "hma explain job-01k0…",
        "hma explain job-01k0… -o json | jq -r '.sentences[]'",
        "hma explain job-01k0… -o json | jq '.accounts[] | select(.retried_tokens > 0)'",
    )
)
@click.argument("job", type=JobIdType())
@common
def explain(job: str, server: str, output: Output) -> None:
    """Say why a job went as it did: where each token went, what moved, what was stopped.

    The story comes first, in plain words; then a table of where the tokens went,
    predicted against realised, and what was moved, interrupted, dropped and judged. A
    job that still runs is explained up to now.
    """
    with Client(server) as client:
        told = client.explain(job)
    if output == "json":
        json_line(told)
    else:
        out = console()
        show(explanation(told, out.width), out)
