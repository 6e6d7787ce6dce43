from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.errors import InvalidRequest
from services.meta_agent.store.page_token import read_token, write_token

TIMES = st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1))


@given(time=TIMES, job_id=st.text("abc-XYZ", max_size=30), states=st.lists(st.integers(0, 8)))
def test_a_token_brings_back_the_exact_place(
    time: datetime, job_id: str, states: list[int]
) -> None:
    filters = ("acme", *states)
    assert read_token(write_token(time, job_id, filters), filters) == (time, job_id)


@given(text=st.text())
def test_garbage_is_an_invalid_request(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_token(text, ("acme",))


@pytest.mark.parametrize(
    "inner",
    ["[1,2]", '["x","y","z"]', "[1e999,1,1]", "{}", "[" * 150, '[1,"a\\u0000",""]', "[NaN,1,1]"],
)
def test_a_forged_token_is_an_invalid_request(inner: str) -> None:
    token = base64.urlsafe_b64encode(inner.encode()).decode().rstrip("=")
    with pytest.raises(InvalidRequest):
        read_token(token, ("acme",))


def test_a_token_is_good_for_its_own_list_only() -> None:
    token = write_token(datetime.now(UTC) - timedelta(days=1), "job-1", ("acme", 5))
    for other in (("acme",), ("beta", 5), ("acme", 6)):
        with pytest.raises(InvalidRequest):
            read_token(token, other)
