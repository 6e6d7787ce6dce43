"""A model server's key stays with that server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hma.cli.diagnosis import look_at_model
from hma.errors import HmaError
from hma.llm.counters import read_counters


@contextlib.contextmanager
def server(elsewhere: str = "") -> Iterator[tuple[str, list[str | None]]]:
    """A server that sends everybody elsewhere; its URL, and the credentials that it was shown."""
    shown: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("authorization"))
            self.send_response(302 if elsewhere else 404)
            if elsewhere:
                self.send_header("location", f"{elsewhere}{self.path}")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Keeps the test's output quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}", shown
        finally:
            http.shutdown()
            thread.join(10)


def count(url: str) -> None:
    with pytest.raises(HmaError):
        read_counters(url, api_key="s3cret")


def diagnose(url: str) -> None:
    look_at_model({"HMA_LLM_BASE_URL": f"{url}/v1", "HMA_LLM_API_KEY": "s3cret"})


@pytest.mark.parametrize("ask", [count, diagnose])
def test_a_redirect_does_not_take_the_key_along(ask: Callable[[str], None]) -> None:
    with server() as (theirs, shown_there), server(theirs) as (ours, shown):
        ask(ours)
    assert shown == ["Bearer s3cret"]
    assert shown_there == [None]
