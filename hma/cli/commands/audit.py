"""The command audit: who did what."""

from __future__ import annotations

from datetime import datetime

import click

from hma.cli.audit_table import audit_table
from hma.cli.commands.usage import MomentType
from hma.cli.options import Output, common
from hma.cli.outcome import examples
from hma.cli.printing import console, json_line, show
from hma.client import Client

_ALL = "*"


@click.command(
    epilog=examples(
        "hma audit",
        "hma audit --refused --since 1h",
        "hma audit --job job-01KQ8R4E3V8N2D6Z4T1C0B9A7F",
        "hma audit --all --limit 1000 -o json | jq -r '[.time, .subject, .method] | @tsv'",
    )
)
@click.option("--tenant", default="", metavar="NAME", help="Whose trail; default: your tenant's.")
@click.option("--all", "everybody", is_flag=True, help="Every tenant's, and refused strangers.")
@click.option("--job", "job_id", default="", metavar="ID", help="Only what was done to this job.")
@click.option("--refused", is_flag=True, help="Only what was refused or failed.")
@click.option(
    "--since",
    type=MomentType(),
    metavar="TIME",
    help='From then on: "1h" ago, or the start of a day, UTC: "2026-11-01".',
)
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="At most this many, the latest.",
)
@common
def audit(
    tenant: str,
    everybody: bool,
    job_id: str,
    refused: bool,
    since: datetime | None,
    limit: int,
    server: str,
    output: Output,
) -> None:
    """Show who did what, to which job, when and from where.

    Everything that changes something is recorded, and everything that was refused; reads
    that succeed are not. The latest entry is the last line. Needs a key of the role ADMIN,
    or OPERATOR for other tenants.
    """
    if everybody and tenant:
        raise click.UsageError("Give --tenant or --all, not both.")
    whose = _ALL if everybody else tenant
    with Client(server) as client:
        found = list(
            client.audit(tenant=whose, job_id=job_id, refused=refused, since=since, limit=limit)
        )
    if output == "json":
        for entry in found:
            json_line(entry)
        return
    if not found:
        click.echo("Nothing of this kind is recorded.")
        return
    show([audit_table(found[::-1], tenants=everybody)], console())
