"""`hma demo`: a default job with checkable answers, beside one plain call; what `make run` runs."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from hma.cli import demo_job
from hma.cli.commands.work import submit_and_follow
from hma.cli.comparison import Comparison
from hma.cli.demo_job import DemoJob
from hma.cli.following import STOP_HINT
from hma.cli.options import DurationType, Output, TaskType, TokensType, common
from hma.cli.outcome import BY_STATE, COMPLETE, LEFT, UNEXPECTED, examples
from hma.cli.plain_call import ModelServer, ask_plainly
from hma.cli.presenting import Showing
from hma.cli.printing import console, show
from hma.client.requests import seconds as duration_seconds
from hma.errors import HmaError
from hma.v1 import job_pb2

_BUDGET = 5000
_DEADLINE = "2m"


@click.command(
    epilog=examples(
        "hma demo",
        'hma demo --task "Summarise." --docs "a.md b.txt" --budget 6000 --deadline 120s',
        'TASK="Which ports?" DOCS=README.md hma demo',
    )
)
@click.option("--task", type=TaskType(), envvar="TASK", help="Your own task. [env: TASK]")
@click.option(
    "--docs", envvar="DOCS", metavar="FILES", help="Your documents, space-separated. [env: DOCS]"
)
@click.option("--budget", type=TokensType(), envvar="BUDGET", help="Tokens. [env: BUDGET]")
@click.option("--deadline", type=DurationType(), envvar="DEADLINE", help="[env: DEADLINE]")
@common
@click.pass_context
def demo(
    ctx: click.Context,
    task: str | None,
    docs: str | None,
    budget: int | None,
    deadline: float | None,
    server: str,
    output: Output,
) -> None:
    """Run a job whose answers can be checked, and compare it with one plain call.

    Without --task it asks questions about this repository's README and docs, shows the
    job live, and counts how many answers were hit: by HMA, and by one plain chat call
    to the same model with the same budget. Whatever comes out is printed. With --task it
    runs your own job.

    Exits with 0 when there is an answer, whole or partial.
    """
    if docs and not task:
        raise click.UsageError("DOCS needs a TASK: what should be done with these documents?")
    questions = None if task else demo_job.load()
    documents = shlex.split(docs or "") if questions is None else _existing(questions.documents)
    for path in documents:
        if not Path(path).is_file():
            raise click.UsageError(f"there is no file {path}")
    tokens = budget or (questions.budget if questions else _BUDGET)
    limit = deadline or duration_seconds(questions.deadline if questions else _DEADLINE, "deadline")
    spec = {
        "task": questions.description if questions else task,
        "documents": documents,
        "budget": tokens,
        "deadline": limit,
    }
    job = asyncio.run(submit_and_follow(spec, server, Showing(output, STOP_HINT)))
    if job is None:
        ctx.exit(LEFT)
    if questions is not None and job.HasField("answer"):
        if output == "text":
            click.echo("\nThe same questions in one plain call, with the same budget …")
        comparison = _compare(questions, documents, tokens, limit, job)
        if output == "json":
            click.echo(json.dumps({"comparison": comparison.as_dict()}, ensure_ascii=False))
        else:
            show(comparison.render(), console())
    ctx.exit(COMPLETE if job.HasField("answer") else BY_STATE.get(job.state, UNEXPECTED))


def _existing(documents: Sequence[str]) -> list[str]:
    found = [path for path in documents if Path(path).is_file()]
    if not found:
        raise click.UsageError(
            "the demo asks about README.md and docs/: run it in the repository, or bring a --task"
        )
    return found


def _compare(
    questions: DemoJob, documents: Sequence[str], budget: int, limit: float, job: job_pb2.Job
) -> Comparison:
    """Asks the same questions in one plain call with the same budget and time."""
    contents = [(path, Path(path).read_text(encoding="utf-8")) for path in documents]
    texts = [question.text for question in questions.questions]
    server = ModelServer.from_environ(os.environ, limit)
    try:
        plain = ask_plainly(server, contents, texts, budget)
    except HmaError as error:
        return Comparison.of(questions.questions, job, None, error.message)
    return Comparison.of(questions.questions, job, plain)
