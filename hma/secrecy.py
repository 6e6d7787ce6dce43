"""Whether files that hold secrets are readable by more than those who need them."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

_log = logging.getLogger(__name__)

CLOSE_FILE = (
    "`chmod 600` it, or 640 where a group reads it (a Kubernetes volume: `defaultMode: 0440` and "
    "the pod's `fsGroup`)"
)
"""What to do about it."""


def exposure(variable: str, path: str) -> str:
    """What is wrong with the mode of a secret's file; empty if nothing is.

    Its group may read it: that is how containers share secrets. A file that is not there is
    another's business.

    Args:
        variable: The setting that names the file.
        path: The file; symbolic links are followed, as mounted secrets need it.
    """
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if not mode & (stat.S_IROTH | stat.S_IWOTH) or not _within_reach(path):
            return ""
    except OSError:
        return ""
    return f"{variable}: every user of this machine can open {path} (mode {mode:04o})"


def _within_reach(path: str) -> bool:
    """Whether the directories above a file let every user pass."""
    directories = Path(path).resolve().parents
    return all(directory.stat().st_mode & stat.S_IXOTH for directory in directories)


def log_exposure(files: Mapping[str, str]) -> None:
    """Warns in the log of each of a process's files, given by setting, that is exposed."""
    for variable, path in files.items():
        if path and (fault := exposure(variable, path)):
            _log.warning("%s: %s", fault, CLOSE_FILE)
