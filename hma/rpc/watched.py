"""What a process made of files that may be replaced while it runs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hma.errors import SettingsError

_log = logging.getLogger(__name__)

T = TypeVar("T")

EVERY = 1.0
"""Seconds between two looks at the files, at least."""

_Signature = tuple[tuple[int, int, int] | None, ...]


class Watched(Generic[T]):
    """The last good content of some files.

    Nobody looks while nobody asks: `current` does, when its last look is a second old.
    Content that cannot be used is logged once, and what was good stays. Several threads may
    ask.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[str],
        read: Callable[[], T],
        *,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the files.

        Args:
            what: What they are, for the log.
            paths: The files; symbolic links are followed, as mounted secrets need it.
            read: Makes the value; raises SettingsError when the files are no good.
            every: Seconds between two looks.
            clock: Seconds.

        Raises:
            SettingsError: The files are no good.
        """
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._every = every
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = clock()
        # Taken before they are read: a file that changes meanwhile is read again.
        self._seen = _signature(self._paths)
        self._value = read()

    def current(self) -> T:
        """The last good value; the same object as long as the files are the same."""
        with self._lock:
            now = self._clock()
            if now - self._looked >= self._every:
                self._looked = now
                self._look()
            return self._value

    def _look(self) -> None:
        seen = _signature(self._paths)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._value = self._read()
        except SettingsError as error:
            _log.error("%s: the new content is no good, the old one stays: %s", self._what, error)
        else:
            _log.info("%s: read again", self._what)


def _signature(paths: Sequence[str]) -> _Signature:
    """Changes whenever a file is replaced or written."""
    return tuple(_stat(path) for path in paths)


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
