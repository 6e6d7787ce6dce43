"""PostgreSQL's socket where its path is too long for the data directory: in /tmp, and closed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hma.local.database import prepare, socket_directory


@pytest.fixture
def data(open_directory: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A data directory whose path is too long; its sockets are cleared away."""
    path = open_directory / request.node.name / ("d" * 100) / "pg"
    yield path
    directory = socket_directory(path)
    if directory.is_symlink():
        directory.unlink()
    else:
        shutil.rmtree(directory, ignore_errors=True)


def test_one_that_was_left_open_is_closed(data: Path) -> None:
    directory = socket_directory(data)
    directory.mkdir()
    directory.chmod(0o777)
    prepare(data)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_one_that_leads_elsewhere_is_refused(data: Path, tmp_path: Path) -> None:
    socket_directory(data).symlink_to(tmp_path)
    with pytest.raises(SystemExit, match="somebody else's"):
        prepare(data)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make somebody else's directory")
def test_somebody_elses_is_refused(data: Path) -> None:
    directory = socket_directory(data)
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    with pytest.raises(SystemExit, match="somebody else's"):
        prepare(data)
