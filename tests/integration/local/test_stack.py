"""What is left of the local stack, however it ends: nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from tests.integration.local.conftest import LocalStack, Starter


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_everything_in_good_order(start: Starter, number: signal.Signals) -> None:
    stack = start()
    stack.wait_until_serving()

    assert stack.end(number) == 0
    assert stack.leftovers() == []
    assert not (stack.directory / "pg" / "postmaster.pid").exists()
    assert "database system is shut down" in (stack.directory / "log/database.log").read_text()
    assert "Traceback" not in stack.output


def test_signal_while_starting_ends_everything(start: Starter) -> None:
    stack = start()
    while len(stack.leftovers()) < 5:
        time.sleep(0.01)

    assert stack.end(signal.SIGINT) == 0
    assert stack.leftovers() == []
    assert "Traceback" not in stack.output


def test_killed_stack_leaves_nothing_and_starts_again(start: Starter) -> None:
    stack = start()
    stack.wait_until_serving()
    ports = _listening(stack)
    assert len(ports) >= 8

    stack.end(signal.SIGKILL)
    stack.wait_until_nothing_is_left()
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))

    again = start()
    again.wait_until_serving()
    assert again.end(signal.SIGINT) == 0


def test_part_that_dies_ends_the_stack_and_shows_its_log(start: Starter) -> None:
    stack = start()
    stack.wait_until_serving()
    log = (stack.directory / "log" / "worker-2.log").read_text()
    os.kill(int(log.split("process ")[1]), signal.SIGKILL)

    assert stack.end() == 1
    assert "worker-2 ended by signal SIGKILL" in stack.output
    assert log.strip() in stack.output
    assert stack.leftovers() == []


def test_replica_that_dies_leaves_its_work_to_the_others_until_there_are_none(
    start: Starter,
) -> None:
    stack = start(HMA_LOCAL_META_AGENTS="2")
    stack.wait_until_serving()
    first, second = (
        int((stack.directory / "log" / f"meta-agent-{n}.log").read_text().split("process ")[1])
        for n in (1, 2)
    )
    os.kill(first, signal.SIGKILL)
    assert stack.process.stdout is not None
    stack.lines.append(stack.process.stdout.readline())
    while "meta-agent-1 ended" not in stack.lines[-1]:
        stack.lines.append(stack.process.stdout.readline())
        assert stack.lines[-1], stack.output
    assert "by signal SIGKILL; the others go on" in stack.lines[-1]
    assert stack.process.poll() is None

    os.kill(second, signal.SIGKILL)
    assert stack.end() == 1
    assert "meta-agent-2 ended by signal SIGKILL" in stack.output
    assert stack.leftovers() == []


def test_part_that_cannot_start_ends_the_stack_and_shows_why(start: Starter) -> None:
    stack = start(STAND_IN_REFUSES="REDUCER")

    assert stack.end() == 1
    assert "reducer ended with exit code 1" in stack.output
    assert "the stand-in does not want to" in stack.output
    assert stack.leftovers() == []


def test_part_that_is_not_ready_in_time_is_named(start: Starter) -> None:
    stack = start(HMA_LOCAL_START_TIMEOUT="1ms")

    assert stack.end() == 1
    assert "was not ready within 0.001 s (HMA_LOCAL_START_TIMEOUT)" in stack.output
    assert stack.leftovers() == []


def test_taken_port_is_named_with_its_setting(start: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        stack = start(HMA_GATEWAY_PORT=port)

        assert stack.end() == 2
    assert f"port {port} (gateway) is taken" in stack.output
    assert f"(process {os.getpid()})" in stack.output
    assert "set HMA_GATEWAY_PORT" in stack.output
    assert "Traceback" not in stack.output


def test_wrong_setting_is_named(start: Starter) -> None:
    stack = start(HMA_GATEWAY_PORT="eighty")

    assert stack.end() == 2
    assert "HMA_GATEWAY_PORT: expected a number" in stack.output
    assert "Traceback" not in stack.output


def test_second_stack_on_the_same_data_is_refused_and_the_first_unharmed(start: Starter) -> None:
    first = start()
    first.wait_until_serving()
    second = start()

    assert second.end() == 2
    assert "another stack already runs on" in second.output
    assert first.process.poll() is None
    assert first.end(signal.SIGINT) == 0


def test_two_stacks_run_side_by_side(start: Starter) -> None:
    first, second = start(), start(data="other-data")
    first.wait_until_serving()
    second.wait_until_serving()

    assert first.end(signal.SIGINT) == 0
    assert second.process.poll() is None
    assert second.end(signal.SIGINT) == 0


def test_lock_of_a_dead_server_whose_number_was_taken_is_cleared(start: Starter) -> None:
    stack = start()
    stack.wait_until_serving()
    stack.end(signal.SIGINT)
    # After a reboot the number in the file may be anybody's: here it is this test's.
    _leave_lock(stack.directory / "pg" / "postmaster.pid", os.getpid())

    again = start()
    again.wait_until_serving()
    assert again.end(signal.SIGINT) == 0


def test_the_gateways_host_opens_one_port_to_others(start: Starter) -> None:
    stack = start(HMA_GATEWAY_HOST="0.0.0.0", HMA_AUTH_NONE_ANYWHERE="true")
    stack.wait_until_serving()
    assert stack.process.stdout is not None
    while "Ctrl-C" not in stack.lines[-1]:
        stack.lines.append(stack.process.stdout.readline())
    (url,) = re.findall(r"HMA serves at http://(\S+)", stack.output)
    host, port = url.split(":")
    opened = {
        connection.laddr.port
        for process in stack.leftovers()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and not ip_address(connection.laddr.ip.removeprefix("::ffff:")).is_loopback
    }

    assert stack.end(signal.SIGINT) == 0
    assert (host, opened) == ("127.0.0.1", {int(port)})
    assert "Other machines reach the gateway: it binds 0.0.0.0." in stack.output
    assert "plain text: HMA_GATEWAY_TLS_CERT_FILE" in stack.output
    assert "They reach all services" not in stack.output


def _leave_lock(path: Path, number: int) -> None:
    path.write_text(f"{number}\n{path.parent}\n1\n5432\n{path.parent}\n\n  1 1\nready\n")


def _listening(stack: LocalStack) -> set[int]:
    return {
        connection.laddr.port
        for process in stack.leftovers()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
