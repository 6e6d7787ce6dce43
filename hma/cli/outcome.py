"""Exit codes, and errors as a command line shows them."""

from __future__ import annotations

import json
from typing import Any

import click

from hma.cli.wording import clean
from hma.errors import HmaError, InvalidRequest, RetryableError
from hma.text.unseen import escaped
from hma.v1 import job_pb2

COMPLETE = 0
UNEXPECTED = 1
# 2 is click's, for a wrong command line.
PARTIAL = 3
FAILED = 4
CANCELLED = 5
REFUSED = 6
LEFT = 130

BY_STATE: dict[job_pb2.JobState.ValueType, int] = {
    job_pb2.JOB_STATE_SUCCEEDED: COMPLETE,
    job_pb2.JOB_STATE_PARTIAL: PARTIAL,
    job_pb2.JOB_STATE_FAILED: FAILED,
    job_pb2.JOB_STATE_CANCELLED: CANCELLED,
}

EXIT_CODES = """\
\b
Exit codes:
  0  complete: every item is answered (or the command did what it says)
  2  usage: the command line is wrong
  3  partial: there is an answer, and it says what it lacks
  4  failed: there is no answer
  5  cancelled
  6  refused: the server refuses the request, or is not there
"""


def examples(*lines: str) -> str:
    """A command's epilog: examples as they are typed, and the exit codes."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines), "", EXIT_CODES])


def complain(error: HmaError, *, as_json: bool) -> None:
    """Prints `error` to stderr: a line of text, or of JSON."""
    if as_json:
        click.echo(escaped(json.dumps(as_dict(error), ensure_ascii=False)), err=True)
    else:
        click.echo(f"hma: {clean(_sentence(error))}", err=True)


def as_dict(error: HmaError) -> dict[str, Any]:
    """`error` for programs."""
    body: dict[str, Any] = {"reason": error.reason, "message": error.message}
    if isinstance(error, InvalidRequest):
        body["fields"] = [
            {"field": entry.field, "description": entry.description} for entry in error.violations
        ]
    if isinstance(error, RetryableError) and error.retry_after is not None:
        body["retry_after"] = error.retry_after
    return {"error": body}


def _sentence(error: HmaError) -> str:
    text = error.message
    if isinstance(error, InvalidRequest):
        text = "; ".join(
            f"{entry.field}: {entry.description}" if entry.field else entry.description
            for entry in error.violations
        )
    if isinstance(error, RetryableError) and error.retry_after:
        text += f" (try again in {error.retry_after:g} s)"
    return text
