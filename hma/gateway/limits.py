"""Limits against floods, as Envoy enforces them before a MetaAgent is reached.

They protect the machines. Each Envoy counts for itself, so with n of them behind one
address a client gets up to n times as much; the exact limits of a tenant are its quotas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hma.settings import Bytes, Check, Seconds, at_least, setting

TENANT_GROUPS = ("reads", "mutations", "streams")
"""What a tenant has a bucket of its own for."""

# Room in the count of all connections for those of the services themselves.
_INTERNAL_CONNECTIONS = 1_000


def _bounded(low: int, high: int) -> Check:
    """Envoy's own bounds of a number."""
    return lambda value: None if low <= value <= high else f"expected {low} to {high}, got {value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """What one Envoy admits. A rate of 0 means no limit."""

    address_rate: int = setting(
        "HMA_GATEWAY_ADDRESS_RATE",
        500,
        "Requests per second from one client address (IPv6: one /64), counted before "
        "authentication; 0: no limit. Per Envoy",
        check=at_least(0),
    )
    read_rate: int = setting(
        "HMA_GATEWAY_TENANT_READ_RATE",
        200,
        "Get, List and Explain requests per second of one tenant; 0: no limit. Per Envoy",
        check=at_least(0),
    )
    mutation_rate: int = setting(
        "HMA_GATEWAY_TENANT_MUTATION_RATE",
        100,
        "Requests per second of one tenant that change something; 0: no limit. Per Envoy",
        check=at_least(0),
    )
    stream_rate: int = setting(
        "HMA_GATEWAY_TENANT_STREAM_RATE",
        100,
        "WatchJob streams that one tenant may open per second; 0: no limit. Per Envoy",
        check=at_least(0),
    )
    burst: Seconds = setting(
        "HMA_GATEWAY_BURST",
        Seconds(5),
        "How many seconds' worth of these rates may come at once after a rest",
        check=at_least(1),
    )
    max_connections: int = setting(
        "HMA_GATEWAY_MAX_CONNECTIONS",
        4_000,
        "Most connections of clients to one Envoy; one more is closed at once",
        check=at_least(1),
    )
    max_streams: int = setting(
        "HMA_GATEWAY_MAX_STREAMS",
        1_000,
        "Most requests at once on one HTTP/2 connection; a client holds back those above",
        check=_bounded(1, 2**31 - 1),
    )
    max_requests: int = setting(
        "HMA_GATEWAY_MAX_REQUESTS",
        4_000,
        "Most requests and streams that one Envoy has open at all MetaAgents together; one "
        "more is RESOURCE_EXHAUSTED",
        check=at_least(1),
    )
    max_attempts: int = setting(
        "HMA_GATEWAY_MAX_ATTEMPTS",
        20_000,
        "Most streams that one Envoy has open at all services of one role; one more is "
        "RESOURCE_EXHAUSTED",
        check=at_least(1),
    )
    max_header_kib: int = setting(
        "HMA_GATEWAY_MAX_HEADER_KIB",
        32,
        "Largest head of a request, in KiB",
        check=_bounded(1, 8192),
    )
    max_headers: int = setting(
        "HMA_GATEWAY_MAX_HEADERS",
        100,
        "Most headers of a request",
        check=at_least(1),
    )
    request_timeout: Seconds = setting(
        "HMA_GATEWAY_REQUEST_TIMEOUT",
        Seconds(300),
        "How long a client may take to send one request, body included",
        check=at_least(1),
    )
    idle_timeout: Seconds = setting(
        "HMA_GATEWAY_IDLE_TIMEOUT",
        Seconds(300),
        "After this, a client's connection without a request is closed",
        check=at_least(1),
    )
    max_heap: Bytes = setting(
        "HMA_GATEWAY_MAX_HEAP",
        Bytes(1 << 30),
        "Memory of one Envoy. Near it requests are RESOURCE_EXHAUSTED and the largest are "
        "reset; at 48 MiB a request it holds about twenty",
        check=at_least(64 << 20),
    )
    trusted_hops: int = setting(
        "HMA_GATEWAY_TRUSTED_HOPS",
        0,
        "Proxies in front of Envoy whose x-forwarded-for is believed; 0: the peer's address "
        "is the client's",
        check=at_least(0),
    )

    def template_values(self) -> dict[str, Any]:
        """What the placeholders of gateway/envoy.yaml stand for."""
        return {
            "address_buckets": list(_address_buckets(self)),
            "address_refused": list(_address_refused(self)),
            "tenant_buckets": list(_tenant_buckets(self)),
            "max_connections": self.max_connections,
            "max_all_connections": self.max_connections + _INTERNAL_CONNECTIONS,
            "max_internal_connections": _INTERNAL_CONNECTIONS,
            "max_streams": self.max_streams,
            "max_requests": self.max_requests,
            "max_attempts": self.max_attempts,
            "max_header_kib": self.max_header_kib,
            "max_headers": self.max_headers,
            "request_timeout": f"{self.request_timeout:g}s",
            "idle_timeout": f"{self.idle_timeout:g}s",
            "max_heap": int(self.max_heap),
            "trusted_hops": self.trusted_hops,
        }


def _address_buckets(limits: GatewayLimits) -> list[dict[str, Any]]:
    if not limits.address_rate:
        return []
    # Without a value: a bucket for each.
    entries = [{"key": "masked_remote_address"}]
    return [{"entries": entries, "token_bucket": _bucket(limits.address_rate, limits.burst)}]


def _address_refused(limits: GatewayLimits) -> Iterator[dict[str, Any]]:
    """Headers of a refusal, in the words of Envoy's own x-ratelimit headers."""
    most = _bucket(limits.address_rate, limits.burst)["max_tokens"]
    for name, value in (("limit", most), ("remaining", 0), ("reset", 1)):
        header = {"key": f"x-ratelimit-{name}", "value": str(value)}
        yield {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _tenant_buckets(limits: GatewayLimits) -> list[dict[str, Any]]:
    rates = (limits.read_rate, limits.mutation_rate, limits.stream_rate)
    return [
        {
            "entries": [{"key": "tenant"}, {"key": "group", "value": group}],
            "token_bucket": _bucket(rate, limits.burst),
        }
        for group, rate in zip(TENANT_GROUPS, rates, strict=True)
        if rate
    ]


def _bucket(rate: int, burst: float) -> dict[str, Any]:
    return {
        "max_tokens": math.ceil(rate * burst),
        "tokens_per_fill": rate,
        "fill_interval": "1s",
    }
