"""Entry of the `hma` command; `python -m hma.cli` is the same."""

from __future__ import annotations

from hma.cli.app import hma


def main() -> None:
    """Runs the command line and exits."""
    hma(prog_name="hma")


if __name__ == "__main__":
    main()
