from __future__ import annotations

import asyncio

from hma.v1 import job_pb2
from services.meta_agent.driving.progress import ProgressBoard


def progress(job_id: str, sequence: int) -> job_pb2.JobProgress:
    return job_pb2.JobProgress(job_id=job_id, sequence=sequence)


async def test_a_watcher_gets_the_latest_and_misses_what_came_between() -> None:
    board = ProgressBoard()
    for sequence in range(1, 6):
        board.publish(progress("j", sequence))
    found = await board.wait_newer("j", 0, 1)
    assert found is not None
    assert found.progress.sequence == 5
    assert await board.wait_newer("j", found.revision, 0.01) is None


async def test_a_watcher_is_woken() -> None:
    board = ProgressBoard()
    waiting = [asyncio.create_task(board.wait_newer("j", 0, 5)) for _ in range(3)]
    await asyncio.sleep(0)
    board.publish(progress("other", 1))
    board.publish(progress("j", 7))
    for task in waiting:
        found = await task
        assert found is not None
        assert found.progress.sequence == 7


async def test_a_job_that_is_driven_again_is_news() -> None:
    board = ProgressBoard()
    board.publish(progress("j", 1))
    first = board.latest("j")
    assert first is not None
    board.forget("j")
    assert board.latest("j") is None
    board.publish(progress("j", 2))
    again = await board.wait_newer("j", first.revision, 1)
    assert again is not None


async def test_nothing_is_kept_of_jobs_that_nobody_drives_or_watches() -> None:
    board = ProgressBoard()
    for number in range(100):
        board.publish(progress(f"j{number}", 1))
        board.forget(f"j{number}")
        await board.wait_newer(f"w{number}", 0, 0)
    watching = asyncio.create_task(board.wait_newer("x", 0, 5))
    await asyncio.sleep(0)
    board.forget("x")
    assert len(board) == 1
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert len(board) == 0
