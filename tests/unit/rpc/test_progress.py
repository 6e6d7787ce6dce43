"""Coalescing loses nothing, whatever the chunks and whenever it is read."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.rpc import progress
from hma.rpc.outbox import MAX_FRAMES, Outbox
from hma.rpc.progress import ProgressBuffer
from hma.v1 import attempt_pb2, common_pb2
from tests import virtual_time

# None stands for a report being taken between two chunks.
chunks_and_reads = st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=60)


@given(chunks_and_reads, st.integers(1, 50))
def test_text_and_offsets_are_complete_under_any_chunking(
    script: list[str | None], most: int
) -> None:
    buffer = ProgressBuffer(most)
    reports: list[attempt_pb2.AttemptProgress] = []
    for step in script:
        if step is None:
            if (report := buffer.take()) is not None:
                reports.append(report)
        else:
            buffer.add(call=1, text=step)
    reports.extend(buffer.drain())
    written = "".join(step for step in script if step is not None)
    assert "".join(report.text for report in reports) == written
    position = 0
    for report in reports:
        assert report.offset == position
        assert len(report.text) <= most
        position += len(report.text)
    assert not buffer.dirty


def test_the_latest_call_usage_and_phase_win() -> None:
    buffer = ProgressBuffer()
    buffer.add(call=1, usage=common_pb2.Usage(completion_tokens=1), phase="waiting")
    buffer.add(call=2, usage=common_pb2.Usage(completion_tokens=9))
    report = buffer.take()
    assert report == attempt_pb2.AttemptProgress(
        call=2, usage=common_pb2.Usage(completion_tokens=9), phase="waiting"
    )
    assert buffer.take() is None


def test_a_report_stays_far_below_the_message_limit() -> None:
    assert progress.MAX_TEXT * 4 < 1 << 20


def test_progress_leaves_at_most_once_per_interval() -> None:
    times, text = virtual_time.run(_spoken(words=60, apart=0.005, interval=0.1))
    assert text == "x" * 60
    # The last one precedes the result and need not wait for its turn.
    assert times == pytest.approx([0, 0.1, 0.2, 0.3], abs=0.006)


async def _spoken(words: int, apart: float, interval: float) -> tuple[list[float], str]:
    """When each report of progress left, and what all of them said."""
    outbox = Outbox(interval)

    async def speak() -> None:
        for _ in range(words):
            outbox.progress(call=1, usage=None, text="x", phase="")
            await asyncio.sleep(apart)
        await outbox.put(attempt_pb2.AttemptReport(result=attempt_pb2.AttemptResult()))
        outbox.close()

    speaking = asyncio.create_task(speak())
    loop = asyncio.get_running_loop()
    begin, times, text = loop.time(), [], ""
    async for frame in outbox.frames():
        assert isinstance(frame, attempt_pb2.AttemptReport)
        if frame.HasField("progress"):
            times.append(loop.time() - begin)
            text += frame.progress.text
    await speaking
    return times, text


async def test_frames_wait_for_room_and_a_closed_outbox_lets_them_go() -> None:
    outbox = Outbox()
    frame = attempt_pb2.AttemptReport(intent=attempt_pb2.CallIntent(call=1))
    for _ in range(MAX_FRAMES):
        assert await outbox.put(frame)
    waiting = asyncio.create_task(outbox.put(frame))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    outbox.discard()
    assert await waiting is False
    assert [each async for each in outbox.frames()] == []
