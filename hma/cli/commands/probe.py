"""`hma probe`: measures what a route's model and server can do, for the routes file."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from hma.cli.options import DurationType, Output, TokensType, output_option
from hma.cli.outcome import COMPLETE, FAILED, PARTIAL, examples
from hma.cli.printing import console, show
from hma.cli.wording import clean, count
from hma.errors import SettingsError
from hma.settings import load

if TYPE_CHECKING:
    from hma.llm.probing.findings import Finding, Findings
    from hma.llm.routes import Route, Routes
    from hma.llm.settings import LlmSettings

_NEEDED = ("openai", "tenacity", "tomlkit", "genai_prices")


@click.command(
    epilog=examples(
        "hma probe fast",
        "hma probe fast --budget 40k --concurrency 16 --write routes.toml",
        "HMA_ROUTES_FILE=routes.toml hma probe large -o json | jq .probe.profile",
    )
)
@click.argument("route", required=False, default="")
@click.option(
    "--budget",
    "-b",
    type=TokensType(),
    default="20k",
    show_default=True,
    metavar="TOKENS",
    help="Most tokens, prompt plus completion, over all calls.",
)
@click.option(
    "--deadline",
    "-t",
    type=DurationType(),
    default="10m",
    show_default=True,
    metavar="TIME",
    help="When it must have ended.",
)
@click.option(
    "--concurrency",
    "-c",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="Calls at once; for prices by GPU-hour, as many as in production.",
)
@click.option(
    "--name", metavar="NAME", help="The profile's name. Default: the route's name, measured."
)
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Put the profile into this routes file (TOML); the rest of it stays.",
)
@output_option
@click.pass_context
def probe(
    ctx: click.Context,
    route: str,
    budget: int,
    deadline: float,
    concurrency: int,
    name: str | None,
    write: Path | None,
    output: Output,
) -> None:
    """Measure what a route's model and server can do.

    ROUTE is a route's name; left out: the default one. The routes are those of the
    services, from the same variables (HMA_LLM_*, HMA_ROUTES_FILE). The probe calls the model
    server itself; HMA need not run. It never spends more than its budget. What it cannot
    measure it says and leaves out.

    Prints the profile as TOML for the routes file. Exits with 0 when everything was
    measured, 3 when something could not be, 4 when nothing was.
    """
    _check_installed()
    settings, routes = _routes()
    try:
        chosen = routes.choose(route)
    except KeyError:
        raise click.BadParameter(
            f"there is no route {route!r}; there are: {', '.join(routes)}", ctx, param_hint="ROUTE"
        ) from None
    profile = name or f"{chosen.name}-measured"
    # What a failed call logs, the findings say in words.
    logging.getLogger("hma").addHandler(logging.NullHandler())
    findings = asyncio.run(_measure(settings, routes, chosen, budget, deadline, concurrency))
    _present(findings, profile, output)
    if write is not None:
        from hma.llm.probing.routes_file import write_profile

        write_profile(write, profile, findings, routes)
        click.echo(f"[profiles.{profile}] is in {write}", err=True)
    ctx.exit(_outcome(findings))


def _check_installed() -> None:
    for module in _NEEDED:
        try:
            importlib.import_module(module)
        except ImportError:
            raise SettingsError(
                f"`hma probe` needs the package {module}: pip install 'hma[probe]'"
            ) from None


def _routes() -> tuple[LlmSettings, Routes]:
    from hma.llm.routes import load_routes
    from hma.llm.settings import LlmSettings

    settings = load(LlmSettings, os.environ)
    return settings, load_routes(settings, os.environ)


async def _measure(
    settings: LlmSettings,
    routes: Routes,
    route: Route,
    budget: int,
    deadline: float,
    concurrency: int,
) -> Findings:
    from hma.llm.openai_compatible import OpenAICompatible
    from hma.llm.probing.run import probe as measure

    click.echo(f"probing {route.name} at {route.base_url}, {budget:,} tokens at most …", err=True)
    async with OpenAICompatible(settings) as llm:
        return await measure(
            llm,
            route,
            routes.retry,
            budget=budget,
            deadline=deadline,
            concurrency=concurrency,
            progress=lambda finding: click.echo(f"  {_line(finding)}", err=True),
        )


def _present(findings: Findings, profile: str, output: Output) -> None:
    from hma.llm.probing.routes_file import profile_text

    if output == "json":
        click.echo(json.dumps({"probe": _as_dict(findings, profile)}, ensure_ascii=False))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in ("feature", "value", "how"):
        table.add_column(title)
    for finding in findings.features:
        table.add_row(finding.feature, Text(*_value(finding)), Text(clean(finding.note)))
    spent = (
        f"{findings.spent:,} of {findings.budget:,} tokens · {count(findings.calls, 'call')} · "
        f"{findings.seconds:.1f}s · {clean(findings.model)}"
    )
    show([table, Text(), Text(spent, "dim"), Text()], console())
    click.echo(profile_text(profile, findings), nl=False)
    _hint(findings, profile)


def _hint(findings: Findings, profile: str) -> None:
    """What to do with the profile and the throughput; comments in TOML."""
    click.echo(f'\n# Use it: profile = "{profile}" in [routes.{findings.route}].')
    rates = [key for key in findings.values if "_tokens_per_second_at_" in key]
    best = {key.rpartition("_at_")[0]: findings.values[key] for key in rates}
    if best:
        click.echo(f"# To price GPU-hours, in [routes.{findings.route}.prices] beside gpu_hour:")
    for key, rate in best.items():
        click.echo(f"# {key} = {rate:g}")


def _as_dict(findings: Findings, profile: str) -> dict[str, Any]:
    from hma.llm.calibration import Calibration

    return {
        "route": findings.route,
        "model": findings.model,
        "budget_tokens": findings.budget,
        "spent_tokens": findings.spent,
        "calls": findings.calls,
        "seconds": round(findings.seconds, 3),
        "features": [
            {
                "feature": each.feature,
                "standing": each.standing.value,
                "value": each.value.to_table()
                if isinstance(each.value, Calibration)
                else each.value,
                "note": each.note,
            }
            for each in findings.features
        ],
        "name": profile,
        "profile": findings.whole_profile,
    }


def _line(finding: Finding) -> str:
    return f"{finding.feature}: {_value(finding)[0]} ({clean(finding.note)})"


def _value(finding: Finding) -> tuple[str, str]:
    """A finding's value as people read it, and its style."""
    from hma.llm.calibration import Calibration
    from hma.llm.probing.findings import Standing

    if finding.standing is Standing.NOT_MEASURED:
        return "not measured", "yellow"
    if finding.standing is Standing.DOES_NOT_APPLY:
        return "–", "dim"
    value = finding.value
    if isinstance(value, bool):
        return ("yes" if value else "no"), ""
    if isinstance(value, Calibration):
        likely = [value.probability_good(grounded=kind, mean_logprob=0) for kind in (True, False)]
        return f"{likely[0]:.2f} / {likely[1]:.2f}", ""
    if isinstance(value, float) and value >= 10:
        return f"{value:,.0f}", ""
    return (f"{value:,}" if isinstance(value, int) else str(value)), ""


def _outcome(findings: Findings) -> int:
    if not findings.values:
        return FAILED
    return PARTIAL if findings.missing else COMPLETE
