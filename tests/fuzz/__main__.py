"""`make fuzz`: python -m tests.fuzz --inputs 10000 --seed 7."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from tests.fuzz.running import run


def main() -> int:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    return min(asyncio.run(run(options.inputs, options.seed)), 1)


if __name__ == "__main__":
    sys.exit(main())
