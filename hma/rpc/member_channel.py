"""A channel that says who calls, and that follows certificates as they are renewed.

It stands between stubs and a channel of grpc's, and hands every call on as it is: the call
objects are grpc's own. (Interceptors of grpc.aio would put another kind of call in their
place, whose writes, half-close and cancellation differ.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import grpc

Metadata = tuple[tuple[str, str], ...]

MAX_AGE = 7200.0
"""Seconds after which a replaced connection is closed though calls on it go on: longer than
the longest job."""


class _Connection:
    """A channel of grpc's, and how many calls are open on it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.calls = 0
        self.on_idle: Callable[[], None] | None = None
        self._methods: dict[tuple[Any, ...], Any] = {}

    def call(self, kind: str, how: tuple[Any, ...], *args: Any, **options: Any) -> Any:
        """Makes a call; `how` is the method with its serialisers."""
        # By its serialisers, too: who only knocks at a method sends bytes.
        method = self._methods.get((kind, *how))
        if method is None:
            method = self._methods[kind, *how] = getattr(self.channel, kind)(*how)
        call = method(*args, **options)
        self.calls += 1
        call.add_done_callback(self._ended)
        return call

    def _ended(self, _: object) -> None:
        self.calls -= 1
        if not self.calls and self.on_idle is not None:
            self.on_idle()


class MemberChannel(grpc.aio.Channel):
    """The channel of a member of the installation.

    When what it was made from changes, the next call gets a new connection. Calls on the old
    one go on; it is closed behind the last of them, at the latest after `max_age`.
    """

    def __init__(
        self,
        connect: Callable[[], grpc.aio.Channel],
        metadata_for: Callable[[str], Metadata],
        *,
        made_from: Callable[[], object] = lambda: None,
        max_age: float = MAX_AGE,
    ) -> None:
        """Connects on first use.

        Args:
            connect: Makes a channel of grpc's.
            metadata_for: What calls of a method carry.
            made_from: Another object whenever `connect` would make another channel.
            max_age: Seconds that calls on a replaced connection may last.
        """
        self._connect = connect
        self._metadata_for = metadata_for
        self._made_from = made_from
        self._max_age = max_age
        self._source = made_from()
        self._latest = _Connection(connect())
        self._replaced: set[_Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def connections(self) -> int:
        """Connections that are not closed: the latest, and replaced ones still in use."""
        return 1 + len(self._replaced)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Closes every connection."""
        self._closed = True
        everything = {self._latest, *self._replaced}
        self._replaced.clear()
        for connection in everything:
            connection.on_idle = None
        await asyncio.gather(*(each.channel.close(grace) for each in everything), *self._closing)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The latest connection's state."""
        return self._current().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the latest connection's state is another."""
        await self._current().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until the latest connection is there."""
        await self._current().channel.channel_ready()

    def unary_unary(self, *how: Any, **more: Any) -> Any:
        """A method with one request and one response."""
        return self._method("unary_unary", how, more)

    def unary_stream(self, *how: Any, **more: Any) -> Any:
        """A method with one request and many responses."""
        return self._method("unary_stream", how, more)

    def stream_unary(self, *how: Any, **more: Any) -> Any:
        """A method with many requests and one response."""
        return self._method("stream_unary", how, more)

    def stream_stream(self, *how: Any, **more: Any) -> Any:
        """A method with many requests and many responses."""
        return self._method("stream_stream", how, more)

    def _method(self, kind: str, how: tuple[Any, ...], more: dict[str, Any]) -> Any:
        names = ("request_serializer", "response_deserializer")
        whole = (*how, *(more.get(name) for name in names[len(how) - 1 :]))
        name: str = whole[0]

        def call(*args: Any, metadata: Any = None, **options: Any) -> Any:
            said = (*(metadata or ()), *self._metadata_for(name))
            return self._current().call(kind, whole, *args, metadata=said, **options)

        return call

    def _current(self) -> _Connection:
        source = self._made_from()
        if source is not self._source and not self._closed:
            self._source = source
            self._replace()
        return self._latest

    def _replace(self) -> None:
        old, self._latest = self._latest, _Connection(self._connect())
        self._replaced.add(old)
        if old.calls:
            old.on_idle = lambda: self._close(old)
            asyncio.get_running_loop().call_later(self._max_age, self._close, old)
        else:
            self._close(old)

    def _close(self, connection: _Connection) -> None:
        if connection not in self._replaced:
            return
        self._replaced.remove(connection)
        connection.on_idle = None
        closing = asyncio.create_task(connection.channel.close(), name="close replaced channel")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
