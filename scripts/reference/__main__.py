"""`python -m scripts.reference`: writes the reference pages, or checks them with --check."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.reference import api, openapi, settings
from scripts.reference.descriptors import compile_contracts, read_contracts

ROOT = Path(__file__).parents[2]


def pages() -> dict[str, str]:
    """Every generated page by its path from the root of the repository."""
    contracts = read_contracts(compile_contracts(ROOT))
    return {
        "docs/API_REFERENCE.md": api.render(contracts),
        "docs/SETTINGS.md": settings.render(),
        "gateway/openapi.json": openapi.render(contracts),
    }


def stale(root: Path, pages: Mapping[str, str]) -> list[str]:
    """Paths of the pages whose file is missing or says something else."""

    def current(path: Path) -> str:
        return path.read_text(encoding="utf-8") if path.exists() else ""

    return [name for name, text in pages.items() if current(root / name) != text]


def write(root: Path, pages: Mapping[str, str]) -> None:
    """Writes every page."""
    for name, text in pages.items():
        (root / name).write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the pages; with `--check` only says which are stale, and exits with 1."""
    parser = argparse.ArgumentParser(prog="python -m scripts.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when stale")
    fresh = pages()
    if not parser.parse_args(arguments).check:
        write(ROOT, fresh)
        return 0
    old = stale(ROOT, fresh)
    for name in old:
        print(f"{name} is stale: run `make docs` and commit the result.", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
