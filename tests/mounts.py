"""Directories into which Kubernetes mounts secrets, and how it renews them."""

from __future__ import annotations

import shutil
from pathlib import Path


class Mount:
    """A directory with a secret: name -> ..data/name, ..data -> ..TIME.

    A renewal writes another ..TIME and renames a new ..data over the old one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._times = 0

    def write(self, **content: str) -> None:
        """Renews what is in it, all at once."""
        self._times += 1
        versioned = self._directory / f"..{self._times}"
        versioned.mkdir(parents=True)
        for name, source in content.items():
            shutil.copy(source, versioned / name)
            link = self._directory / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        beside = self._directory / "..data_tmp"
        beside.symlink_to(versioned.name)
        beside.replace(self._directory / "..data")
        shutil.rmtree(self._directory / f"..{self._times - 1}", ignore_errors=True)
