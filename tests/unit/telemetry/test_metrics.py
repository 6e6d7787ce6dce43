"""The metrics server dispatches pages and ends cleanly."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterable

import pytest
from prometheus_client import Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from hma.telemetry.metrics import MetricsServer, new_registry


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
        return str(response.read(), "utf-8")


class _Fleet:
    def __init__(self) -> None:
        self.reads = 0

    def collect(self) -> Iterable[Metric]:
        self.reads += 1
        yield GaugeMetricFamily("hma_fleet_size", "Replicas", value=self.reads)


def test_pages_are_served_by_path_from_what_is_true_now() -> None:
    registry = new_registry()
    counter = Counter("hma_tokens", "Tokens", registry=registry)
    fleet = _Fleet()
    before = threading.active_count()
    with MetricsServer("127.0.0.1", 0, {"/metrics": registry, "/fleet": fleet}) as server:
        counter.inc(3)
        metrics = _get(server.port, "/metrics")
        assert "hma_tokens_total 3.0" in metrics
        assert "process_cpu_seconds_total" in metrics
        first = fleet.reads
        assert f"hma_fleet_size {first + 1}.0" in _get(server.port, "/fleet")
        assert "hma_tokens" not in _get(server.port, "/fleet")
        with pytest.raises(urllib.error.HTTPError) as missing:
            _get(server.port, "/nothing")
        assert missing.value.code == 404
        assert "/fleet" in missing.value.read().decode()
        missing.value.close()
    assert threading.active_count() == before
    with pytest.raises(urllib.error.URLError):
        _get(server.port, "/metrics")


def test_a_taken_port_is_an_error_and_a_free_one_can_be_taken_again_at_once() -> None:
    with MetricsServer("127.0.0.1", 0, {}) as server:
        with pytest.raises(OSError, match="in use"):
            MetricsServer("127.0.0.1", server.port, {})
        port = server.port
    with MetricsServer("127.0.0.1", port, {}) as again:
        assert again.port == port
