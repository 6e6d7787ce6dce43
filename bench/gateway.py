"""What the gateway adds to a call: direct against through Envoy, with and without a key.

python -m bench.gateway                  # a stack of its own, a minute
python -m bench.gateway --quick
HMA_API_KEY=… python -m bench.gateway --server host:8080 --direct host:50051   # a running one

The kinds of call take turns, so that what else the machine does hits all alike. Health
needs no key on any path; ListJobs asks the database once. A path that refuses the call is
shown as "-". Of its own the bench starts three stacks, and the kinds of all take turns: one
without authentication, one that takes who has just called for known, and one that asks
a MetaAgent about every request. Their own keys are used.
"""

from __future__ import annotations

import argparse
import http.client
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.stage.tables import quantile, show
from hma.local.settings import load_stack
from hma.local.stack import Stack
from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc

Call = Callable[[], bool]
"""Makes one call; whether it was answered and not refused."""

Took = dict[str, list[float]]
"""Seconds that calls took, by the kind of call."""

_NO_LIMITS = {
    f"HMA_GATEWAY_{name}_RATE": "0"
    for name in ("ADDRESS", "TENANT_READ", "TENANT_MUTATION", "TENANT_STREAM")
}
_WARM_UP = 50


def calls(held: ExitStack, server: str, direct: str, key: str) -> dict[str, Call]:
    """The kinds of call, by what is printed of them.

    Args:
        held: Keeps the connections.
        server: host:port of the gateway.
        direct: host:port of a MetaAgent.
        key: Sent through the gateway; empty for none.
    """
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    gateway = held.enter_context(grpc.insecure_channel(server))
    straight = held.enter_context(grpc.insecure_channel(direct))
    connection = http.client.HTTPConnection(server, timeout=10)
    held.callback(connection.close)

    def health(channel: grpc.Channel) -> Call:
        check = health_pb2_grpc.HealthStub(channel).Check
        return _answered(lambda: check(health_pb2.HealthCheckRequest(), timeout=10))

    def list_jobs(channel: grpc.Channel, sent: tuple[tuple[str, str], ...]) -> Call:
        ask = meta_agent_pb2_grpc.MetaAgentServiceStub(channel).ListJobs
        request = meta_agent_pb2.ListJobsRequest(page_size=1)
        return _answered(lambda: ask(request, metadata=sent, timeout=10))

    def http_json() -> bool:
        connection.request("GET", "/v1/jobs?page_size=1", headers=dict(metadata))
        response = connection.getresponse()
        response.read()
        return response.status == http.HTTPStatus.OK

    return {
        "Health, direct": health(straight),
        "Health, gateway": health(gateway),
        "ListJobs, direct": list_jobs(straight, ()),
        "ListJobs, gateway": list_jobs(gateway, metadata),
        "ListJobs, gateway, HTTP/JSON": http_json,
    }


def _answered(call: Callable[[], Any]) -> Call:
    def once() -> bool:
        try:
            call()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True

    return once


def measure(paths: Mapping[str, Mapping[str, Call]], rounds: int) -> dict[str, Took]:
    """Makes each call so many times, in turn.

    Args:
        paths: The kinds of call of each path, by the path's name.
        rounds: Calls of each kind.

    Returns:
        Seconds that each call took, by path and kind; none where it is refused.
    """
    took: dict[str, Took] = {path: {kind: [] for kind in kinds} for path, kinds in paths.items()}
    open_ = [
        (took[path][kind], call)
        for path, kinds in paths.items()
        for kind, call in kinds.items()
        if all(call() for _ in range(_WARM_UP))
    ]
    for _ in range(rounds):
        for seconds, call in open_:
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
    return took


def own_stack(held: ExitStack, **changes: str) -> tuple[str, str, str]:
    """Starts a stack; the addresses of its gateway and its MetaAgent, and its key.

    Args:
        held: Keeps the stack.
        changes: Settings, HMA_AUTH among them.
    """
    directory = held.enter_context(tempfile.TemporaryDirectory(prefix="hma-bench-"))
    # PostgreSQL is another user when this one is root.
    Path(directory).chmod(0o755)
    environment = {
        **os.environ,
        **_NO_LIMITS,
        **changes,
        "HMA_DATA_DIR": directory,
        # No model is needed.
        "HMA_LLM_BASE_URL": "http://127.0.0.1:1/v1",
    }
    zeros = {variable: "0" for variable, _, _ in load_stack(environment).ports()}
    settings = load_stack({**environment, **zeros})
    held.enter_context(Stack(settings, environment))
    kept = settings.data / "access" / "key"
    key = kept.read_text().strip() if kept.exists() else os.environ.get("HMA_API_KEY", "")
    host = settings.connect_host
    return (
        f"{host}:{settings.gateway_port}",
        f"{host}:{settings.meta_agent_port}",
        key if settings.access.required else "",
    )


def _ms(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{1000 * quantile(values, 0.5):.2f} / {1000 * quantile(values, 0.95):.2f}"


def main() -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--server", help="host:port of a running gateway")
    parser.add_argument("--direct", help="host:port of the MetaAgent behind it")
    options = parser.parse_args()
    if bool(options.server) != bool(options.direct):
        parser.error("--server and --direct belong together")
    rounds = 300 if options.quick else 3000
    with ExitStack() as held:
        if options.server:
            key = os.environ.get("HMA_API_KEY", "")
            name = "with a key" if key else "without a key"
            paths = {name: calls(held, options.server, options.direct, key)}
        else:
            # All before the first channel: a process with gRPC's threads cannot fork safely.
            stacks = {
                "no authentication": own_stack(held, HMA_AUTH="none"),
                "known callers": own_stack(held, HMA_AUTH="on"),
                "each one asked": own_stack(held, HMA_AUTH="on", HMA_GATEWAY_KNOWN_CALLERS="0"),
            }
            paths = {name: calls(held, *stack) for name, stack in stacks.items()}
        columns = measure(paths, rounds)
    kinds = list(next(iter(columns.values())))
    show(
        f"{rounds} calls of each kind, one after the other, ms p50 / p95",
        ("", *columns),
        [(kind, *(_ms(column[kind]) for column in columns.values())) for kind in kinds],
    )


if __name__ == "__main__":
    main()
