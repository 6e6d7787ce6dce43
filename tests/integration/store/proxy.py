"""A proxy before PostgreSQL that breaks connections at a chosen moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Moment = Literal["before", "inside", "after"]
# The end of every answer: ReadyForQuery, outside a transaction.
_READY = b"Z\x00\x00\x00\x05I"


class Proxy:
    """Forwards TCP to PostgreSQL's Unix socket.

    `cut` breaks the next statement of the connection with a given application_name:
    before the server sees it, while it is at work on it, or after it has committed but
    before its reply.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = parse_qs(parts.query)["host"][0] + "/.s.PGSQL.5432"
        self._database = parts.path.lstrip("/")
        self._cuts: dict[str, tuple[Moment, int]] = {}
        self._down = False
        self._sessions: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stalled = asyncio.Event()
        self._stalled.set()
        self.cuts_made = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._start, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{port}/{self._database}"
        try:
            yield self
        finally:
            server.close()
            for session in self._sessions:
                session.cancel()
            await asyncio.gather(*self._sessions, return_exceptions=True)
            await server.wait_closed()

    def cut(self, moment: Moment, name: str = "hma-appender", *, skip: int = 0) -> None:
        """Args: skip: So many messages of the connections pass before."""
        self._cuts[name] = moment, skip

    def down(self) -> None:
        """Breaks every connection and accepts no other."""
        self._down = True
        self.break_all()

    def up(self) -> None:
        self._down = False

    def break_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self) -> None:
        """Lets nothing pass from now on, breaks nothing: a host that has vanished."""
        self._stalled.clear()

    def resume(self) -> None:
        self._stalled.set()

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.create_task(self._serve(reader, writer))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._down:
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_unix_connection(self._socket)
        self._writers |= {writer, up_writer}
        try:
            await _Session(self, reader, writer, up_reader, up_writer).run()
        except OSError:
            pass
        finally:
            self._writers -= {writer, up_writer}
            writer.transport.abort()
            up_writer.transport.abort()

    def take_cut(self, name: str) -> Moment | None:
        moment, skip = self._cuts.pop(name, (None, 0))
        if moment is not None and skip:
            self._cuts[name] = moment, skip - 1
            return None
        return moment

    async def may_pass(self) -> None:
        await self._stalled.wait()


class _Session:
    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client = reader, writer
        self._server = up_reader, up_writer
        self._swallow = False

    async def run(self) -> None:
        pumps = [asyncio.create_task(self._to_server()), asyncio.create_task(self._to_client())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _to_server(self) -> None:
        name = ""
        while data := await self._client[0].read(1 << 16):
            await self._proxy.may_pass()
            if not name:
                # user\0postgres\0application_name\0hma-appender\0...
                fields = data.split(b"\0")
                if b"application_name" in fields:
                    name = fields[fields.index(b"application_name") + 1].decode()
                self._server[1].write(data)
                continue
            moment = self._proxy.take_cut(name)
            if moment is not None:
                self._proxy.cuts_made += 1
            if moment == "before":
                return
            self._swallow = self._swallow or moment == "after"
            self._server[1].write(data)
            await self._server[1].drain()
            if moment == "inside":
                return

    async def _to_client(self) -> None:
        while data := await self._server[0].read(1 << 16):
            await self._proxy.may_pass()
            if self._swallow:
                # The answer to a statement ends so; the one to a Parse just ends.
                with contextlib.suppress(TimeoutError):
                    while data and not data.endswith(_READY):
                        data = await asyncio.wait_for(self._server[0].read(1 << 16), 0.2)
                return
            self._client[1].write(data)
            await self._client[1].drain()
