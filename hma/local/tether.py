"""Ties a process to its parent: when the parent dies, however it dies, so does it.

Run by path as `python tether.py SIGNAL PARENT COMMAND…`, it ties itself and becomes the
command. It imports nothing of HMA, so that this costs a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def tethered(command: list[str], when_parent_dies: signal.Signals) -> list[str]:
    """The command line that runs `command` tied to this process.

    Args:
        command: What to run.
        when_parent_dies: The signal it gets then.
    """
    own = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    return [*own, str(int(when_parent_dies)), str(os.getpid()), *command]


def tie(when_parent_dies: int, parent: int) -> None:
    """Asks the kernel for a signal when `parent`, this process's parent, dies.

    Survives exec, but not a change of user: call it after that. Elsewhere than on Linux
    it does nothing.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(when_parent_dies), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        # The parent died before the kernel was asked.
        sys.exit(f"process {parent}, which started this one, is gone")


def main() -> None:
    """Ties this process and becomes the command."""
    number, parent, *command = sys.argv[1:]
    tie(int(number), int(parent))
    os.execvp(command[0], command)  # noqa: S606 - becoming the command is the purpose


if __name__ == "__main__":
    main()
