"""Health over plain HTTP, on the port of the metrics, for probes that speak no gRPC or no TLS.

/healthz  200 while the process does its work: its event loop turns
/readyz   200 while it does and the service is ready and takes calls, else 503 and why not
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterable, Mapping
from typing import Any

from hma.telemetry.metrics import WsgiApp

_PATIENCE = 2.0
_OK, _AWAY = "200 OK", "503 Service Unavailable"
_STANDS = f"the event loop stood still for {_PATIENCE:g} s"


class HttpHealth:
    """What a server says of itself over HTTP. Asked from threads of the metrics server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Says that it is not ready until `say` is called.

        Args:
            loop: That of the process.
        """
        self._loop = loop
        self._ready: tuple[bool, str] = (False, "starting")

    def say(self, ready: bool, why: str) -> None:
        """Whether the service is ready and, when not, why."""
        self._ready = (ready, why)

    @property
    def pages(self) -> Mapping[str, WsgiApp]:
        """What to serve at which path."""
        return {"/healthz": self._healthz, "/readyz": self._readyz}

    def _healthz(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        if self._turns():
            return _answer(start_response, _OK, "ok")
        return _answer(start_response, _AWAY, _STANDS)

    def _readyz(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        ready, why = self._ready
        # What was said last is no news from a loop that says nothing more.
        if ready and not self._turns():
            ready, why = False, _STANDS
        return _answer(start_response, _OK if ready else _AWAY, why or ("ok" if ready else ""))

    def _turns(self) -> bool:
        turned: concurrent.futures.Future[None] = concurrent.futures.Future()
        try:
            self._loop.call_soon_threadsafe(turned.set_result, None)
            turned.result(_PATIENCE)
        except (TimeoutError, RuntimeError):
            # RuntimeError: the loop is closed.
            return False
        return True


def _answer(start_response: Any, status: str, text: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]
