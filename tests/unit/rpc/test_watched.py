"""Files that are replaced while a process runs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hma.errors import SettingsError
from hma.rpc.internal_keys import watch_internal_keys
from hma.rpc.watched import Watched

OLD, NEW = "o" * 32, "n" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watched(path: Path, clock: Clock, reads: list[str]) -> Watched[str]:
    def read() -> str:
        text = path.read_text() if path.exists() else ""
        reads.append(text)
        if not text.startswith("good"):
            raise SettingsError(f"{text!r} is no good")
        return text

    return Watched("the file", [str(path)], read, every=1.0, clock=clock)


def replace(path: Path, text: str) -> None:
    beside = path.with_name("beside")
    beside.write_text(text)
    beside.replace(path)


def test_new_content_is_taken_within_a_second(tmp_path: Path) -> None:
    path, clock, reads = tmp_path / "file", Clock(), list[str]()
    path.write_text("good 1")
    file = watched(path, clock, reads)
    replace(path, "good 2")
    assert file.current() == "good 1"
    clock.now = 1.0
    assert file.current() == "good 2"
    assert reads == ["good 1", "good 2"]


def test_a_file_that_is_the_same_is_not_read_again(tmp_path: Path) -> None:
    path, clock, reads = tmp_path / "file", Clock(), list[str]()
    path.write_text("good")
    file = watched(path, clock, reads)
    first = file.current()
    for clock.now in (5.0, 10.0):
        assert file.current() is first
    assert reads == ["good"]


def test_bad_content_is_said_once_and_the_last_good_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock, reads = tmp_path / "file", Clock(), list[str]()
    path.write_text("good 1")
    file = watched(path, clock, reads)
    replace(path, "bad")
    for clock.now in (1.0, 2.0, 3.0):
        assert file.current() == "good 1"
    path.unlink()
    clock.now = 4.0
    assert file.current() == "good 1"
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "the file" in errors[0].getMessage()
    replace(path, "good 2")
    clock.now = 5.0
    assert file.current() == "good 2"


def test_a_mounted_secret_changes_behind_its_symbolic_link(tmp_path: Path) -> None:
    """As Kubernetes does it: the link to the directory is what is replaced."""
    for number in (1, 2):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "file").write_text(f"good {number}")
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "file").symlink_to("data/file")
    clock = Clock()
    file = watched(tmp_path / "file", clock, [])
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(tmp_path / "data")
    clock.now = 1.0
    assert file.current() == "good 2"


def test_a_file_that_is_no_good_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no good"):
        watched(tmp_path / "none", Clock(), [])


def test_a_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="openssl rand -hex 32"):
        watch_internal_keys(str(tmp_path / "none"))


def test_a_short_key_in_a_new_key_file_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{OLD}\n")
    keys = watch_internal_keys(str(path))
    replace(path, f"{NEW}\nshort\n")
    assert keys.current() == (OLD.encode(),)
