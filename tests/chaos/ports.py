"""Ports for processes that are killed and come back."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

# Below what the kernel hands out by itself: a port that is free for a moment must not
# become the near end of somebody's connection meanwhile.
_RANGE = range(20_000, 32_000)


def free_ports() -> Iterator[int]:
    """Ports of loopback that nobody listens on, each once."""
    for port in random.sample(_RANGE, len(_RANGE)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
