"""Prometheus metrics: registries are passed around, pages are served over HTTP.

registry = new_registry()
spent = Counter("hma_tokens", "Tokens spent", ["route"], registry=registry)
with MetricsServer("127.0.0.1", 9104, {"/metrics": registry}):
    ...
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Protocol, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.metrics_core import Metric

WsgiApp = Callable[[Any, Any], Iterable[bytes]]


class Collector(Protocol):
    """Makes metrics when a page is read; called from a thread of its own."""

    def collect(self) -> Iterable[Metric]:
        """The metrics, as they are now."""


Page = CollectorRegistry | Collector | WsgiApp


def new_registry() -> CollectorRegistry:
    """A registry with the metrics of the process (CPU, memory, files, garbage)."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class MetricsServer:
    """Serves pages of metrics, and others, over HTTP from a thread of its own.

    Args:
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        pages: What to serve at which path, for example "/metrics".

    Raises:
        OSError: The address cannot be bound.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        apps = {path: _app_of(page) for path, page in pages.items()}
        self._server = make_server(
            host, port, _dispatch(apps), server_class=_Server, handler_class=_QuietHandler
        )
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._server.server_port

    def __enter__(self) -> Self:
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics"
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # A scraper that hangs must not hold the process back when it ends.
    block_on_close = False

    def server_bind(self) -> None:
        # WSGIServer resolves the host's name here, which can take seconds without DNS.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _QuietHandler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line."""


def _app_of(page: Page) -> WsgiApp:
    if isinstance(page, CollectorRegistry):
        return make_wsgi_app(page)
    if callable(page):
        return page
    registry = CollectorRegistry()
    registry.register(page)
    return make_wsgi_app(registry)


def _dispatch(apps: Mapping[str, WsgiApp]) -> WsgiApp:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        page = apps.get(environ.get("PATH_INFO", ""))
        if page is not None:
            return page(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"pages: {' '.join(apps)}\n".encode()]

    return app
