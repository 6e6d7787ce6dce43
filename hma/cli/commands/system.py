"""Commands on the system: status, doctor."""

from __future__ import annotations

import json
import os

import click
from rich.table import Table
from rich.text import Text

from hma.cli.diagnosis import diagnose
from hma.cli.finding import Finding, Health
from hma.cli.options import Output, common
from hma.cli.outcome import COMPLETE, REFUSED, examples
from hma.cli.printing import console, json_line, show
from hma.cli.wording import clean, count, word
from hma.client import Client
from hma.v1 import meta_agent_pb2

_MARKS = {
    Health.GOOD: ("✓", "green"),
    Health.WAITING: ("◐", "yellow"),
    Health.RISKY: ("!", "yellow"),
    Health.BAD: ("✗", "red"),
}
_STATE_MARKS = {
    meta_agent_pb2.COMPONENT_STATE_UP: _MARKS[Health.GOOD],
    meta_agent_pb2.COMPONENT_STATE_STARTING: _MARKS[Health.WAITING],
    meta_agent_pb2.COMPONENT_STATE_DOWN: _MARKS[Health.BAD],
}


@click.command(epilog=examples("hma status", "hma status -o json | jq '.components[]'"))
@common
def status(server: str, output: Output) -> None:
    """Show what the server says of its parts and its load."""
    with Client(server) as client:
        found = client.status()
    if output == "json":
        json_line(found)
        return
    grid = _grid()
    for component in found.components:
        mark, style = _STATE_MARKS.get(component.state, ("?", "dim"))
        state = word(meta_agent_pb2.ComponentState, component.state)
        grid.add_row(
            Text(mark, style), clean(component.name), Text(state, style), clean(component.detail)
        )
    load = (
        f"HMA {found.version or '?'} · {count(found.replicas, 'MetaAgent replica')} · "
        f"{count(found.running_jobs, 'job')} at work, {found.queued_jobs:,} queued · "
        f"{count(found.ready_tasks, 'task')} waiting for a place"
    )
    show([grid, Text(load, "dim")], console())


@click.command(epilog=examples("hma doctor", "hma doctor --server hma.example.com:8080"))
@common
@click.pass_context
def doctor(ctx: click.Context, server: str, output: Output) -> None:
    """Find out what is up, what is wrong, and what to do about it.

    Works when nothing is up. Looks at the gateway, at what it says of the services,
    the database and the routes, at the model server, and at who else could read your keys.
    Exits with 6 when something that is needed is down.
    """
    findings = diagnose(server, os.environ)
    bad = any(finding.health is Health.BAD for finding in findings)
    if output == "json":
        for finding in findings:
            click.echo(json.dumps(finding.as_dict(), ensure_ascii=False))
    else:
        show([_table(findings), Text(), _conclusion(findings)], console())
    ctx.exit(REFUSED if bad else COMPLETE)


def _table(findings: list[Finding]) -> Table:
    grid = _grid()
    for finding in findings:
        mark, style = _MARKS[finding.health]
        said = Text(clean(finding.detail))
        if finding.remedy:
            said.append(f"\n→ {clean(finding.remedy)}", "bold")
        grid.add_row(Text(mark, style), clean(finding.name), said)
    return grid


def _conclusion(findings: list[Finding]) -> Text:
    if any(finding.health is Health.BAD for finding in findings):
        first = next(f for f in findings if f.health is Health.BAD)
        return Text(f"Not well. Begin with: {clean(first.name)}.", "bold red")
    if any(finding.health is Health.WAITING for finding in findings):
        return Text(
            "Nearly there: something is still starting. Jobs are queued until then.", "yellow"
        )
    if risky := [f for f in findings if f.health is Health.RISKY]:
        return Text(f"It works, but look at: {clean(risky[0].name)}.", "yellow")
    return Text('All is well. Try: hma run "…" --doc FILE --budget 5000', "green")


def _grid() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
