"""Finds out, before anything starts, whether the ports are free."""

from __future__ import annotations

import errno
import socket
import time

import psutil

from hma.errors import SettingsError
from hma.local.settings import StackSettings

# A stack that was just stopped or killed lets go of its ports within this.
_PATIENCE_S = 3.0


def check_ports(settings: StackSettings) -> None:
    """Makes sure that every port can be bound.

    Raises:
        SettingsError: Some cannot; names each, its setting and, where that can be seen,
            who has it.
    """
    faults = _doubles(settings)
    end = time.monotonic() + _PATIENCE_S
    while not faults:
        taken = [
            (variable, part, port)
            for variable, part, port in settings.ports()
            if not _is_free(*settings.bound_by(variable), port)
        ]
        if not taken:
            return
        if time.monotonic() > end:
            faults = [
                f"port {port} ({part}) is taken{_by_whom(port)}: stop that, or set {variable} "
                "to another port"
                for variable, part, port in taken
            ]
        time.sleep(0.1)
    raise SettingsError("; ".join(faults))


def _doubles(settings: StackSettings) -> list[str]:
    """Ports that two parts of the stack itself claim."""
    first: dict[int, tuple[str, str]] = {}
    faults = []
    for variable, part, port in settings.ports():
        if port in first:
            other_variable, other = first[port]
            faults.append(
                f"{part} and {other} would both use port {port}: change {variable} "
                f"or {other_variable}"
            )
        first[port] = (variable, part)
    return faults


def _is_free(host: str, variable: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do: connections of a stack that has ended do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            if error.errno == errno.EACCES:
                raise SettingsError(
                    f"port {port} needs rights that this user does not have; use 1024 or above"
                ) from error
            raise SettingsError(f"{variable}: cannot listen on {host}: {error.strerror}") from error
    return True


def _by_whom(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and getattr(connection.laddr, "port", 0) == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass  # Without the right to look, the port's number must do.
    return ""
