"""Every worker of pytest-xdist collects the same tests."""

from __future__ import annotations

import gzip

import pytest

from tests.conftest import pytest_make_parametrize_id


def test_bytes_that_may_hold_the_time_are_no_id() -> None:
    with pytest.raises(pytest.UsageError, match="bytes an id"):
        pytest_make_parametrize_id(gzip.compress(b"x"))
    assert pytest_make_parametrize_id(b"\0\xff") is None
    assert pytest_make_parametrize_id(b"content-length: 25, 25") is None
    assert pytest_make_parametrize_id("x" * 100) is None
