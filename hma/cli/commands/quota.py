"""The command quota: what a tenant may use, and what is used of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hma.cli.options import MoneyType, Output, common
from hma.cli.outcome import examples
from hma.cli.printing import console, json_line, show
from hma.cli.quota_table import quota_table
from hma.client import Client

F = TypeVar("F", bound=Callable[..., Any])

_COUNTS = (
    ("requests_per_minute", "Jobs accepted in any 60 seconds."),
    ("requests_per_hour", "Jobs accepted in any 60 minutes."),
    ("requests_per_day", "Jobs accepted in any 24 hours."),
    ("tokens_per_minute", "Tokens in any 60 seconds."),
    ("tokens_per_hour", "Tokens in any 60 minutes."),
    ("tokens_per_day", "Tokens in any 24 hours."),
    ("tokens_per_month", "Tokens in the calendar month, UTC."),
    ("concurrent_jobs", "Jobs that have not ended."),
    ("concurrent_tasks", "Tasks that Workers have at once."),
)


class CountType(click.ParamType[int]):
    """A limit: "5000", "100k", "1.5m"; "0" or "none" for no limit."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parses `value`; fails as a usage error."""
        text = str(value).strip().lower().replace("_", "").replace(",", "")
        if text == "none":
            return 0
        scale = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000}.get(text[-1:], 1)
        try:
            amount = float(text[:-1] if scale > 1 else text) * scale
        except ValueError:
            amount = -1.0
        if not 0 <= amount <= 10**15 or not amount.is_integer():
            words = 'expected a limit such as "5000", "100k" or "none"'
            self.fail(f"{words}, got {value!r}", param, ctx)
        return int(amount)


def _limits(command: F) -> F:
    for name, words in reversed(_COUNTS):
        option = click.option(
            f"--{name.replace('_', '-')}", type=CountType(), metavar="N", help=words
        )
        command = option(command)
    return command


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "hma quota",
        "hma quota --tenant acme -o json | jq '.uses[] | select(.used > .limit * 0.9)'",
        "hma quota set acme --preset small --tokens-per-minute 100k",
        "hma quota set acme --tokens-per-minute none --cost-per-month 250",
    ),
)
@click.option("--tenant", metavar="NAME", default="", help="Whose; default: yours.")
@common
@click.pass_context
def quota(ctx: click.Context, tenant: str, server: str, output: Output) -> None:
    """Show what a tenant may use, what is used, and when each window frees.

    Used is what was settled in the window, and what running jobs hold and have not
    spent.
    """
    if ctx.invoked_subcommand is not None:
        return
    with Client(server) as client:
        found = client.quota(tenant)
    if output == "json":
        json_line(found)
    elif not found.uses:
        click.echo(f"{found.tenant}: no limits.")
    else:
        click.echo(found.tenant)
        show([quota_table(found)], console())


@quota.command("set")
@click.argument("tenant")
@click.option(
    "--preset",
    type=click.Choice(["small", "large", "unlimited"]),
    default=None,
    help="Limits to begin with; without it, what is set now is changed.",
)
@_limits
@click.option(
    "--cost-per-month",
    type=MoneyType(),
    metavar="MONEY",
    help="Money in the calendar month, UTC; 0: no limit.",
)
@common
def set_quota(
    tenant: str, preset: str | None, server: str, output: Output, **limits: float | None
) -> None:
    """Set what TENANT may use; for operators.

    Holds for jobs that are accepted from now on. Those that run go on with what they
    were accepted with, and what they hold counts.
    """
    changes = {name: value for name, value in limits.items() if value is not None}
    if not changes and preset is None:
        raise click.UsageError("Give --preset, a limit, or both.")
    with Client(server) as client:
        now = client.set_quota(tenant, preset or "", changes)
    if output == "json":
        json_line(now)
        return
    said = [f"{field.name.replace('_', ' ')} {value:,}" for field, value in now.ListFields()]
    click.echo(f"{tenant}: {', '.join(said) or 'no limits'}")
