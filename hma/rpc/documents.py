"""Reads documents of a job from the MetaAgent, and keeps what fits."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import Any

import grpc
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from hma import errors
from hma.idle import IDLE, Idle
from hma.rpc.status import from_rpc_error
from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc, task_pb2


class DocumentReader:
    """Fetches documents by `InternalService.ReadDocument`, each content once.

    Content is cached by its SHA-256, the least recently read going first, and what is not
    read for long in any case: its job may be deleted.

    Args:
        channel: To the MetaAgent; stays the caller's.
        max_bytes: Most bytes of content that are kept.
        idle: How long content is kept that nobody reads, in seconds.
        timeout: Deadline of one fetch, in seconds.
        tries: How often a fetch is tried while the MetaAgent is away.
        longest_wait: Longest pause between two tries, in seconds.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        max_bytes: int,
        *,
        idle: float = IDLE,
        timeout: float = 30.0,
        tries: int = 3,
        longest_wait: float = 2.0,
    ) -> None:
        self._stub = meta_agent_pb2_grpc.InternalServiceStub(channel)
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._tries = tries
        self._longest_wait = longest_wait
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._idle = Idle[str]("documents", idle, self._drop)
        # One lock per content that is being fetched, with the number of its users.
        self._fetching: dict[str, tuple[asyncio.Lock, int]] = {}

    @property
    def kept_bytes(self) -> int:
        """Bytes of content in the cache."""
        return self._bytes

    async def read(self, job_id: str, ref: task_pb2.DocumentRef) -> str:
        """The content of a document.

        Raises:
            NotFound: The job or the document is gone.
            Unavailable: The MetaAgent cannot be reached.
            HmaError: What came is not the document that `ref` describes.
        """
        key = ref.sha256
        lock, users = self._fetching.get(key, (asyncio.Lock(), 0))
        self._fetching[key] = (lock, users + 1)
        try:
            async with lock:
                content = self._cached(key)
                if content is None:
                    content = await self._fetch(job_id, ref)
                    self._keep(key, content)
        finally:
            lock, users = self._fetching.pop(key)
            if users > 1:
                self._fetching[key] = (lock, users - 1)
        return content.decode("utf-8")

    def _cached(self, key: str) -> bytes | None:
        if key in self._kept:
            self._kept.move_to_end(key)
            self._idle.use(key)
            return self._kept[key]
        return None

    def _keep(self, key: str, content: bytes) -> None:
        if len(content) > self._max_bytes:
            return
        self._kept[key] = content
        self._bytes += len(content)
        self._idle.use(key)
        while self._bytes > self._max_bytes:
            oldest = next(iter(self._kept))
            self._idle.forget(oldest)
            self._drop(oldest)

    def _drop(self, key: str) -> None:
        self._bytes -= len(self._kept.pop(key))

    async def _fetch(self, job_id: str, ref: task_pb2.DocumentRef) -> bytes:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._tries),
            wait=wait_random_exponential(multiplier=0.1, max=self._longest_wait),
            retry=retry_if_exception_type(errors.Unavailable),
            reraise=True,
        )
        content: bytes = await retrying(self._fetch_once, job_id, ref)
        return content

    async def _fetch_once(self, job_id: str, ref: task_pb2.DocumentRef) -> bytes:
        request = meta_agent_pb2.ReadDocumentRequest(job_id=job_id, document_id=ref.document_id)
        call: Any = self._stub.ReadDocument(request, timeout=self._timeout)
        content = bytearray()
        try:
            async for response in call:
                content += response.chunk
                if len(content) > ref.size_bytes:
                    call.cancel()
                    raise _not_the_document(ref)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        if hashlib.sha256(content).hexdigest() != ref.sha256:
            raise _not_the_document(ref)
        return bytes(content)


def _not_the_document(ref: task_pb2.DocumentRef) -> errors.HmaError:
    return errors.HmaError(
        f"document {ref.document_id} is not what was described", reason="DOCUMENT_MISMATCH"
    )
