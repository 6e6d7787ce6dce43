"""HTTP/2 frames as a hostile client writes them, which no client library would."""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 2, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def head(method: str, path: str, **more: str) -> bytes:
    """A header block of literals without indexing (RFC 7541, section 6.2.2)."""
    pairs = {":method": method, ":scheme": "http", ":authority": "x", ":path": path}
    pairs |= {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs.items())


def _text(value: str) -> bytes:
    assert len(value) < 127
    return bytes([len(value)]) + value.encode()


class HostileClient:
    """A connection to Envoy that sends whatever it likes."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def is_closed_by(
        self, flood: bytes, times: int, *, reads: bool = True, patience: float = 30
    ) -> bool:
        """Whether the server closes the connection while `flood` is sent over and over.

        Args:
            flood: Frames of one round.
            times: Most rounds.
            reads: Read what the server answers meanwhile.
            patience: Seconds to wait for the end once everything was sent.
        """
        self._socket.settimeout(2)
        try:
            for _ in range(times):
                self._socket.sendall(flood)
                if reads and self._drained():
                    return True
        except TimeoutError:
            # It does not read any more, nor has it closed.
            return self._closes(patience)
        except OSError:
            return True
        return self._closes(patience)

    def _drained(self) -> bool:
        while select.select([self._socket], [], [], 0)[0]:
            if not self._socket.recv(65536):
                return True
        return False

    def _closes(self, patience: float) -> bool:
        end = time.monotonic() + patience
        self._socket.settimeout(patience)
        try:
            while time.monotonic() < end:
                if not self._socket.recv(65536):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True
        return False
