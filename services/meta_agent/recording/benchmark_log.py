"""One CSV line per finished job, for whoever compares runs."""

from __future__ import annotations

import asyncio
import csv
import fcntl
import logging
from pathlib import Path
from types import TracebackType
from typing import Self

from hma.v1 import common_pb2, job_pb2, task_pb2

_log = logging.getLogger(__name__)
_WAITING = 1_000
_LAST_LINES = 5.0

COLUMNS = (
    "end_time",
    "job_id",
    "state",
    "shape",
    "tasks",
    "items",
    "answered",
    "extracts",
    "budget_tokens",
    "total_tokens",
    "prompt_tokens",
    "cached_prompt_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "unknown_tokens",
    "cost",
    "latency_seconds",
    "answer_characters",
    "tokens_per_second",
    "token_roi",
)
"""`answered` counts items that a model answered, `extracts` those copied from a
document instead. `latency_seconds` runs from acceptance to the end, `tokens_per_second`
is completion tokens over it, `token_roi` is answered items per 1,000 tokens."""


class BenchmarkLog:
    """Appends to a CSV file that several processes may share.

    An async context manager: lines are written in the background, so that no driver
    waits for a disk, and what is left is written on leaving it. A failure to write is
    logged and never reaches a job.
    """

    def __init__(self, path: Path | None) -> None:
        """Writes nothing yet.

        Args:
            path: The file; None writes nothing.
        """
        self._path = path
        self._rows: asyncio.Queue[dict[str, str]] = asyncio.Queue(_WAITING)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._path is not None:
            self._task = asyncio.create_task(self._write_forever(self._path), name="benchmark log")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is None:
            return
        try:
            async with asyncio.timeout(_LAST_LINES):
                await self._rows.join()
        except TimeoutError:
            _log.warning("lines of the benchmark log are lost: the disk is too slow")
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def record(self, job: job_pb2.Job) -> None:
        """Has a line written about a job that has ended."""
        if self._path is None:
            return
        try:
            self._rows.put_nowait(row_of(job))
        except asyncio.QueueFull:
            _log.warning("the benchmark log misses job %s: the disk is too slow", job.job_id)

    async def _write_forever(self, path: Path) -> None:
        while True:
            row = await self._rows.get()
            try:
                await asyncio.to_thread(_append, path, row)
            except (OSError, csv.Error, UnicodeError) as error:
                _log.warning("cannot write the benchmark log %s: %s", path, error)
            finally:
                self._rows.task_done()


def row_of(job: job_pb2.Job) -> dict[str, str]:
    """What the log says of a job, by column."""
    ledger = job.ledger
    tokens = ledger.spent_tokens
    seconds = (job.end_time.ToNanoseconds() - job.create_time.ToNanoseconds()) / 1e9
    answered, extracts = _count_answers(job.answer)
    values: dict[str, object] = {
        "end_time": job.end_time.ToJsonString(),
        "job_id": job.job_id,
        "state": job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_"),
        "shape": job_pb2.JobShape.Name(job.shape).removeprefix("JOB_SHAPE_"),
        "tasks": len(job.tasks),
        "items": len(job.items),
        "answered": answered,
        "extracts": extracts,
        "budget_tokens": ledger.budget_tokens,
        "total_tokens": tokens,
        "prompt_tokens": ledger.prompt_tokens,
        "cached_prompt_tokens": ledger.cached_prompt_tokens,
        "completion_tokens": ledger.completion_tokens,
        "reasoning_tokens": ledger.reasoning_tokens,
        "unknown_tokens": ledger.unknown_tokens,
        "cost": f"{ledger.cost:.6f}",
        "latency_seconds": f"{seconds:.3f}",
        "answer_characters": len(job.answer.text),
        "tokens_per_second": _ratio(ledger.completion_tokens, seconds),
        "token_roi": _ratio(1000 * answered, tokens),
    }
    return {column: str(values[column]) for column in COLUMNS}


def _count_answers(answer: task_pb2.Answer) -> tuple[int, int]:
    extracts = sum(item.origin == common_pb2.ORIGIN_EXTRACT for item in answer.items)
    answered = sum(bool(item.answer) for item in answer.items) - extracts
    if not answer.items and answer.text:
        return 1, 0
    return answered, extracts


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole > 0 else "0.000"


def _append(path: Path, row: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8", newline="") as file:
        # Released when the file is closed, also after a crash.
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        # An older file keeps its columns: a line that did not fit its header would
        # make the whole file useless.
        header = next(csv.reader(file), None)
        file.seek(0, 2)
        writer = csv.DictWriter(
            file, header or COLUMNS, restval="", extrasaction="ignore", lineterminator="\n"
        )
        if not header:
            writer.writeheader()
        writer.writerow(row)
