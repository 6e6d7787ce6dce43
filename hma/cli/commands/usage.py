"""The command usage: what the ledger adds up to."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from hma.cli.options import Output, common
from hma.cli.outcome import examples
from hma.cli.printing import console, json_line, show
from hma.cli.usage_table import footnote, usage_table
from hma.client import Client
from hma.client.periods import GROUPINGS, moment
from hma.errors import InvalidRequest


class MomentType(click.ParamType[datetime]):
    """A time: how long ago ("7d", "12h"), or a day or a time in ISO form."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Parses `value`; fails as a usage error."""
        try:
            return moment(value, self.name)
        except InvalidRequest as error:
            self.fail(error.violations[0].description, param, ctx)


@click.command(
    epilog=examples(
        "hma usage",
        "hma usage --by day --since 7d",
        "hma usage --by day --by route --since 2026-11-01 --until 2026-12-01",
        "hma usage --by route -o json | jq -r '.rows[] | [.route, .cost] | @tsv'",
    )
)
@click.option(
    "--by", type=click.Choice(["tenant", "route", "day"]), multiple=True, help="Repeatable."
)
@click.option(
    "--since",
    type=MomentType(),
    metavar="TIME",
    help='From then on: "7d" ago, or the start of a day, UTC: "2026-11-01". Default: 30d.',
)
@click.option(
    "--until", type=MomentType(), metavar="TIME", help="Up to then, not included. Default: now."
)
@common
def usage(
    by: tuple[Any, ...],
    since: datetime | None,
    until: datetime | None,
    server: str,
    output: Output,
) -> None:
    """Show tokens and money over time, from the ledger of every LLM call.

    Deleted jobs stay in the ledger. Days are UTC. The bar shows each row's tokens
    against those of the largest row.
    """
    wanted = [name for name in reversed(GROUPINGS) if name in by]
    with Client(server) as client:
        found = client.usage(wanted, since=since, until=until)
    if output == "json":
        json_line(found)
        return
    if not found.total.calls:
        click.echo("No calls in this time.")
        return
    show([usage_table(found, wanted, trend="day" in wanted)], console())
    if note := footnote(found.total):
        click.echo(note)
