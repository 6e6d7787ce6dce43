"""Options and value types that commands share."""

from __future__ import annotations

import functools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from hma.cli.policy import FailureRuleType, PolicyType, policy_of
from hma.client import Backoff, Client
from hma.client.connection import DEFAULT_SERVER
from hma.client.requests import seconds, to_plan
from hma.errors import HmaError, InvalidRequest
from hma.v1 import task_pb2

F = TypeVar("F", bound=Callable[..., Any])
Output = Literal["text", "json"]

MAX_BUDGET = 10_000_000


class DurationType(click.ParamType[float]):
    """A duration such as "90s", "2m" or "1h", in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parses `value`; fails as a usage error."""
        try:
            return seconds(value, "duration")
        except InvalidRequest as error:
            self.fail(error.violations[0].description, param, ctx)


class TokensType(click.ParamType[int]):
    """A number of tokens: "5000", "5_000", "5k", "1.5m"."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parses `value`; fails as a usage error."""
        match = re.fullmatch(r"(\d[\d_,]*(?:\.\d+)?)([km]?)", str(value).strip().lower())
        if match is None:
            self.fail(f'expected tokens such as "5000" or "5k", got {value!r}', param, ctx)
        amount = float(match[1].replace("_", "").replace(",", ""))
        amount *= {"": 1, "k": 1_000, "m": 1_000_000}[match[2]]
        if not amount.is_integer() or not 1 <= amount <= MAX_BUDGET:
            self.fail(f"expected 1 to {MAX_BUDGET:,} tokens, got {value!r}", param, ctx)
        return int(amount)


class MoneyType(click.ParamType[float]):
    """An amount of money: "0.02"."""

    name = "money"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parses `value`; fails as a usage error."""
        try:
            amount = float(value)
        except ValueError:
            amount = math.nan
        if not math.isfinite(amount) or amount < 0:
            self.fail(f'expected an amount of money such as "0.02", got {value!r}', param, ctx)
        return amount


class PlanType(click.ParamType[task_pb2.Plan]):
    """A JSON file with a plan."""

    name = "file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> task_pb2.Plan:
        """Reads the file; fails as a usage error that says where it is wrong."""
        if isinstance(value, task_pb2.Plan):
            return value
        try:
            plan = json.loads(Path(value).read_text(encoding="utf-8"))
        except OSError as error:
            self.fail(f"{value}: {error.strerror}", param, ctx)
        except ValueError as error:
            self.fail(f"{value}: not JSON: {error}", param, ctx)
        if not isinstance(plan, dict):
            self.fail(f'{value}: expected an object such as {{"tasks": […]}}', param, ctx)
        try:
            return to_plan(plan)
        except InvalidRequest as error:
            self.fail(f"{value}: {error.violations[0].description}", param, ctx)


class TaskType(click.ParamType[str]):
    """The text of a task: itself, "@file", or "-" for standard input."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Reads what `value` stands for; fails as a usage error."""
        text = str(value)
        try:
            if text == "-":
                text = sys.stdin.read()
            elif text.startswith("@"):
                text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            self.fail(f"{value}: {error.strerror}", param, ctx)
        except UnicodeDecodeError:
            self.fail(f"{value}: not UTF-8 text", param, ctx)
        if not text.strip():
            self.fail("the task is empty", param, ctx)
        return text


class JobIdType(click.ParamType[str]):
    """A job's id; the shell completes it from the server's latest jobs."""

    name = "job"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Ids that begin so; none when the server is not there quickly."""
        server = ctx.params.get("server")
        try:
            with Client(server, timeout=1.0, backoff=Backoff(tries=1)) as client:
                jobs = list(client.list(limit=50))
        except HmaError:
            return []
        return [
            CompletionItem(job.job_id, help=job.task_description[:60])
            for job in jobs
            if job.job_id.startswith(incomplete)
        ]


def _remember_output(ctx: click.Context, param: click.Parameter, value: Output) -> Output:
    ctx.meta["hma.output"] = value
    return value


def output_option(command: F) -> F:
    """Adds `--output`."""
    option = click.option(
        "--output",
        "-o",
        type=click.Choice(["text", "json"]),
        envvar="HMA_OUTPUT",
        default="text",
        show_default=True,
        is_eager=True,
        callback=_remember_output,
        help="For people, or one JSON object a line.",
    )
    return option(command)


def server_option(command: F) -> F:
    """Adds `--server`."""
    option = click.option(
        "--server",
        metavar="HOST:PORT",
        envvar="HMA_SERVER",
        default=DEFAULT_SERVER,
        show_default=True,
        help="Where HMA is. [env: HMA_SERVER]",
    )
    return option(command)


def common(command: F) -> F:
    """Adds `--server` and `--output`."""
    return server_option(output_option(command))


def job_spec(command: F) -> F:
    """Adds what describes a job: TASK, FILE…, --doc, --budget, --deadline and so on.

    The command gets them as one `spec` mapping, the keyword arguments of
    `hma.Client.submit`.
    """
    path = click.Path(exists=True, dir_okay=False, readable=True)

    @functools.wraps(command)
    def collected(**values: Any) -> Any:
        files: Iterable[str] = (*values.pop("doc"), *values.pop("files"))
        names = (
            *("task", "budget", "deadline", "shape", "route", "plan"),
            *("max_cost", "request_id", "over_quota"),
        )
        spec = {name: values.pop(name) for name in names}
        if not spec["budget"] and not spec["max_cost"]:
            raise click.UsageError("Give --budget TOKENS, --max-cost MONEY, or both.")
        spec["budget"] = spec["budget"] or 0
        spec["documents"] = list(dict.fromkeys(files))
        spec["policy"] = policy_of(values.pop("policy"), values.pop("on_failure"))
        return command(spec=spec, **values)

    decorators = [
        click.argument("task", type=TaskType()),
        click.argument("files", type=path, nargs=-1, metavar="[FILE]..."),
        click.option(
            "--doc",
            "-d",
            type=path,
            multiple=True,
            metavar="FILE...",
            help="A document to work from; may be repeated, and `--doc docs/*.md` works.",
        ),
        click.option(
            "--budget",
            "-b",
            type=TokensType(),
            metavar="TOKENS",
            help="Most tokens, prompt plus completion, over all calls: 5000, 5k, 1m. Without "
            "it: what --max-cost buys at the cheapest price.",
        ),
        click.option(
            "--deadline",
            "-t",
            type=DurationType(),
            metavar="TIME",
            help='When the answer must be there: "90s", "2m". Default: 10m.',
        ),
        click.option(
            "--shape",
            type=click.Choice(["auto", "single", "team"]),
            default="auto",
            show_default=True,
            help="One agent, a team, or let HMA decide.",
        ),
        click.option("--route", metavar="NAME", help="Route for all work; default: chosen."),
        click.option(
            "--policy",
            "-p",
            type=PolicyType(),
            multiple=True,
            metavar="NAME=VALUE",
            help="How the job is run, such as max_rounds=2, halting=adaptive, budgeting=off, "
            "interruption=off, dispatch=waves; may be repeated.",
        ),
        click.option(
            "--on-failure",
            type=FailureRuleType(),
            multiple=True,
            metavar="CLASS=ACTION[:TRIES]",
            help="What follows failures of a class: retry, fallback (another route), give-up "
            "(the task), stop-job; such as timeout=retry:5; may be repeated.",
        ),
        click.option(
            "--plan",
            type=PlanType(),
            metavar="FILE",
            help="A plan of your own (JSON) instead of the Analyst's.",
        ),
        click.option(
            "--max-cost",
            type=MoneyType(),
            default=0.0,
            metavar="MONEY",
            help="Most money, at the routes' prices; 0: no limit.",
        ),
        click.option(
            "--request-id",
            metavar="ID",
            help="The same id gives the same job, however often it is sent.",
        ),
        click.option(
            "--over-quota",
            type=click.Choice(["refuse", "wait"]),
            default="refuse",
            show_default=True,
            help="When the tenant's quota has no room for the job now: fail, or wait for it.",
        ),
    ]
    decorated: Any = collected
    for decorator in reversed(decorators):
        decorated = decorator(decorated)
    return decorated  # type: ignore[no-any-return]
