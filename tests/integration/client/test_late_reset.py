"""A proxy that resets a call at its deadline, for the answer has begun."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hma import AsyncClient, Client
from hma.client import Backoff
from hma.errors import DeadlinePassed, HmaError
from tests.integration.gateway import frames

ONCE = Backoff(tries=1)
INTERNAL_ERROR = struct.pack(">I", 2)
# ":status: 200" (RFC 7541, appendix A, entry 8), then what makes it gRPC.
BEGUN = (
    b"\x88" + frames.head("", "", content_type="application/grpc").partition(b"\0\x05:path\0")[2]
)


@contextmanager
def resetting(after: float) -> Iterator[str]:
    """A server that begins to answer a call, and resets it `after` seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_reset, args=(listener, after))
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


def _reset(listener: socket.socket, after: float) -> None:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as received:
        connection.sendall(frames.frame(frames.SETTINGS, 0, 0))
        received.read(len(frames.PREFACE))
        while head := received.read(9):
            received.read(int.from_bytes(head[:3]))
            if head[3] == frames.SETTINGS and not head[4] & frames.ACK:
                connection.sendall(frames.frame(frames.SETTINGS, frames.ACK, 0))
            if head[3] == frames.HEADERS:
                stream = int.from_bytes(head[5:])
                begun = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, BEGUN)
                connection.sendall(begun)
                time.sleep(after)
                connection.sendall(frames.frame(frames.RST_STREAM, 0, stream, INTERNAL_ERROR))


async def failure(address: str, kind: type[Client] | type[AsyncClient], timeout: float) -> HmaError:
    async def get() -> None:
        client = kind(address, timeout=timeout, backoff=ONCE, api_key="")
        if isinstance(client, Client):
            with client:
                client.get("job-1")
        else:
            async with client:
                await client.get("job-1")

    with pytest.raises(HmaError) as caught:
        await get()
    return caught.value


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_at_its_deadline_a_reset_call_is_late(kind: type[Client] | type[AsyncClient]) -> None:
    with resetting(after=0.98) as address:
        assert isinstance(await failure(address, kind, timeout=1), DeadlinePassed)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_before_its_deadline_it_is_a_fault(kind: type[Client] | type[AsyncClient]) -> None:
    with resetting(after=0) as address:
        found = await failure(address, kind, timeout=30)
    assert not isinstance(found, DeadlinePassed)
    assert "RST_STREAM" in str(found.__cause__)
