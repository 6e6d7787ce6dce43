"""Entry of the `hma` command; `python -m hma.cli` is the same."""

from __future__ import annotations

import os

from hma.cli.app import hma
from hma.cli.warned import tell_warnings


def main() -> None:
    """Runs the command line and exits."""
    # Else gRPC writes a line of its own about each TLS handshake that fails; we say it once.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    tell_warnings()
    hma(prog_name="hma")


if __name__ == "__main__":
    main()
