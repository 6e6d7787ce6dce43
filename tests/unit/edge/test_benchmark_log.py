from __future__ import annotations

import asyncio
import csv
import fcntl
import logging
import multiprocessing
from pathlib import Path

import pytest

from hma.v1 import common_pb2, job_pb2
from services.meta_agent.recording.benchmark_log import COLUMNS, BenchmarkLog, row_of


def finished_job(job_id: str = "job-1") -> job_pb2.Job:
    job = job_pb2.Job(job_id=job_id, state=job_pb2.JOB_STATE_PARTIAL, shape=job_pb2.JOB_SHAPE_TEAM)
    job.create_time.FromMilliseconds(1_000_000)
    job.end_time.FromMilliseconds(1_004_000)
    job.ledger.MergeFrom(
        job_pb2.Ledger(
            budget_tokens=5000,
            spent_tokens=2000,
            prompt_tokens=1900,
            cached_prompt_tokens=500,
            completion_tokens=100,
            cost=0.25,
        )
    )
    job.answer.text = "four"
    for number, origin in enumerate(
        (common_pb2.ORIGIN_MODEL, common_pb2.ORIGIN_MODEL, common_pb2.ORIGIN_EXTRACT)
    ):
        job.items.add(item_id=f"q{number}", text="?")
        job.answer.items.add(item_id=f"q{number}", answer="x", origin=origin)
    return job


def test_a_row_says_what_the_job_bought() -> None:
    row = row_of(finished_job())
    assert tuple(row) == COLUMNS
    assert (row["state"], row["shape"]) == ("PARTIAL", "TEAM")
    assert (row["items"], row["answered"], row["extracts"]) == ("3", "2", "1")
    assert row["latency_seconds"] == "4.000"
    assert row["tokens_per_second"] == "25.000"
    assert row["token_roi"] == "1.000"


def test_a_job_that_spent_nothing_has_a_row_too() -> None:
    assert row_of(job_pb2.Job())["token_roi"] == "0.000"


async def write(path: Path, *jobs: job_pb2.Job) -> list[dict[str, str]]:
    async with BenchmarkLog(path) as log:
        for job in jobs:
            log.record(job)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


async def test_lines_are_appended_below_one_header(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "log.csv"
    await write(path, finished_job("a"), finished_job("b"))
    rows = await write(path, finished_job("c"))
    assert [row["job_id"] for row in rows] == ["a", "b", "c"]


async def test_an_older_file_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("job_id,gone,cost\nold,1,2\n")
    rows = await write(path, finished_job("new"))
    assert rows[1] == {"job_id": "new", "gone": "", "cost": "0.250000"}


async def test_a_log_that_cannot_be_written_hurts_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        async with BenchmarkLog(blocked / "log.csv") as log:
            log.record(finished_job())
    assert "cannot write the benchmark log" in caplog.text


def test_nothing_is_written_when_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def use() -> None:
        async with BenchmarkLog(None) as log:
            log.record(finished_job())

    asyncio.run(use())
    assert not any(tmp_path.iterdir())


async def test_a_line_waits_for_whoever_writes(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        async with BenchmarkLog(path) as log:
            log.record(finished_job())
            await asyncio.sleep(0.3)
            assert path.stat().st_size == 0
            fcntl.flock(held, fcntl.LOCK_UN)
    assert path.stat().st_size > 0


def _write_many(path: str, name: str) -> None:
    from services.meta_agent.recording.benchmark_log import _append

    for _ in range(50):
        _append(Path(path), row_of(finished_job(name)))


def test_several_processes_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(path), n)) for n in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["job_id"] for row in rows) == ["a"] * 50 + ["b"] * 50
