"""Documents are fetched once, verified, and kept within bounds."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from hma import errors
from hma.rpc.documents import DocumentReader
from hma.v1 import meta_agent_pb2_grpc, task_pb2
from tests.integration.rpc.support import ScriptedInternal, serving, until


def ref_of(text: str, document_id: str = "d1") -> task_pb2.DocumentRef:
    content = text.encode()
    return task_pb2.DocumentRef(
        document_id=document_id,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


@asynccontextmanager
async def reading(
    texts: dict[str, str],
    *,
    max_bytes: int = 1000,
    idle: float = 60.0,
    failures: list[grpc.StatusCode] | None = None,
) -> AsyncIterator[tuple[DocumentReader, ScriptedInternal]]:
    meta_agent = ScriptedInternal(failures=failures)
    meta_agent.documents = {("j", key): text.encode() for key, text in texts.items()}
    async with serving(
        lambda s: meta_agent_pb2_grpc.add_InternalServiceServicer_to_server(meta_agent, s)
    ) as channel:
        yield DocumentReader(channel, max_bytes, idle=idle, longest_wait=0.02), meta_agent


async def test_a_document_arrives_whole_and_is_fetched_once() -> None:
    text = "Grüße aus Köln ☕ " * 3
    async with reading({"d1": text}) as (reader, meta_agent):
        assert await reader.read("j", ref_of(text)) == text
        # By content: another job, another id, the same bytes.
        assert await reader.read("other", ref_of(text, "d9")) == text
        assert meta_agent.reads == 1
        assert reader.kept_bytes == len(text.encode())


async def test_readers_at_the_same_time_share_a_fetch_and_survive_a_cancelled_one() -> None:
    async with reading({"d1": "text"}) as (reader, meta_agent):
        meta_agent.hold.clear()
        first, *others = [asyncio.create_task(reader.read("j", ref_of("text"))) for _ in range(4)]
        await until(lambda: meta_agent.reads == 1)
        first.cancel()
        await until(lambda: meta_agent.reads == 2)
        meta_agent.hold.set()
        assert await asyncio.gather(*others) == ["text"] * 3
        assert meta_agent.reads == 2
        assert reader._fetching == {}


async def test_the_least_recently_read_goes_first_and_bytes_are_bounded() -> None:
    texts = {f"d{n}": str(n) * 400 for n in range(3)}
    async with reading(texts, max_bytes=900) as (reader, meta_agent):
        refs = {key: ref_of(text, key) for key, text in texts.items()}
        for key in ("d0", "d1", "d0", "d2"):
            await reader.read("j", refs[key])
        assert meta_agent.reads == 3
        assert reader.kept_bytes == 800
        await reader.read("j", refs["d0"])
        assert meta_agent.reads == 3
        await reader.read("j", refs["d1"])
        assert meta_agent.reads == 4


async def test_what_nobody_reads_any_more_does_not_stay_in_memory() -> None:
    async with reading({"d1": "one", "d2": "two"}, idle=0.2) as (reader, meta_agent):
        await reader.read("j", ref_of("one"))
        for _ in range(6):
            await asyncio.sleep(0.05)
            await reader.read("j", ref_of("two", "d2"))
        assert reader.kept_bytes == 3
        assert meta_agent.reads == 2, "what is in use stays"
        await until(lambda: reader.kept_bytes == 0)
        assert await reader.read("j", ref_of("one")) == "one"


async def test_what_is_larger_than_the_cache_is_read_but_not_kept() -> None:
    async with reading({"d1": "x" * 2000}) as (reader, _):
        assert len(await reader.read("j", ref_of("x" * 2000))) == 2000
        assert reader.kept_bytes == 0


@pytest.mark.parametrize("served", ["tampered", "much longer than it was said to be", ""])
async def test_content_that_does_not_match_is_refused(served: str) -> None:
    async with reading({"d1": served}) as (reader, _):
        with pytest.raises(errors.HmaError) as raised:
            await reader.read("j", ref_of("original"))
        assert raised.value.reason == "DOCUMENT_MISMATCH"
        assert reader.kept_bytes == 0


async def test_a_meta_agent_that_is_briefly_away_is_tried_again() -> None:
    away = [grpc.StatusCode.UNAVAILABLE] * 2
    async with reading({"d1": "text"}, failures=away) as (reader, meta_agent):
        assert await reader.read("j", ref_of("text")) == "text"
        assert meta_agent.reads == 3


async def test_a_document_that_is_gone_is_not_found_at_once() -> None:
    async with reading({"d1": "text"}, failures=[grpc.StatusCode.NOT_FOUND]) as (reader, meta):
        with pytest.raises(errors.NotFound):
            await reader.read("j", ref_of("text"))
        assert meta.reads == 1
