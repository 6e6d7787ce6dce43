"""A job with its log as one JSON document, written event by event."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from hma import __version__
from hma.client import Client
from hma.client.requests import ended
from hma.v1 import job_pb2

FORMAT = "hma-job-1"
"""The document's form: raised when a reader of the last one could not read it."""


def export(client: Client, job_id: str, to: IO[str]) -> int:
    """Writes a job and its log, up to now when it runs.

    `{"format": …, "hma": …, "complete": …, "job": {…}, "events": [{…}, …]}`, names as in
    the protos, an event a line. `complete` says whether the job had ended. No more than
    an event is in memory at a time, whatever the log's length.

    Args:
        client: Where the job is.
        job_id: The job.
        to: Where it is written.

    Returns:
        How many events were written.

    Raises:
        NotFound: There is no such job.
        Unavailable: The server stayed away; what was written is not whole.
        OSError: It cannot be written.
    """
    job = client.get(job_id)
    head = {"format": FORMAT, "hma": __version__, "complete": ended(job), "job": _dict(job)}
    to.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "events": [')
    count = 0
    for event in _events(client, job):
        to.write(",\n" if count else "\n")
        json.dump(_dict(event), to, ensure_ascii=False)
        count += 1
    to.write("\n]}\n")
    return count


def _events(client: Client, job: job_pb2.Job) -> Iterator[job_pb2.JobEvent]:
    """The log that `job` was made from, and nothing that came later."""
    if job.last_sequence < 1:
        return
    for update in client.watch(job.job_id, events_only=True):
        yield update.event
        if update.event.sequence >= job.last_sequence:
            return


def _dict(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)
