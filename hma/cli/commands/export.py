"""`hma export`: a job and its log, to keep."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from hma.cli.exporting import export
from hma.cli.options import JobIdType, server_option
from hma.cli.outcome import examples
from hma.client import Client


@click.command(
    name="export",
    epilog=examples(
        "hma export job-01k0… -o job.json",
        "hma export job-01k0… | jq -r .job.answer.text",
        "hma export job-01k0… | jq -c '.events[] | select(.attempt_finished)'",
    ),
)
@click.argument("job", type=JobIdType())
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to; default: standard output. A file is there whole or not at all.",
)
@server_option
def export_command(job: str, path: Path | None, server: str) -> None:
    """Write a job with its whole log as JSON, to keep or to look into.

    A job that still runs is written up to now. Documents are not part of it; their
    outlines are. Ended jobs expire (HMA_RETENTION): what was exported stays.
    """
    with Client(server) as client:
        if path is None:
            export(client, job, sys.stdout)
            return
        with _written_whole(path) as file:
            count = export(client, job, file)
    click.echo(f"wrote {job} with {count:,} events to {path}")


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[IO[str]]:
    """A file that takes its name when all of it is written."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise click.FileError(str(path), error.strerror or "cannot be written") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
        Path(name).replace(path)
    except OSError as error:
        raise click.FileError(str(path), error.strerror or "cannot be written") from None
    finally:
        Path(name).unlink(missing_ok=True)
