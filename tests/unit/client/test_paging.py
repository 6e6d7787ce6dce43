"""Pages: every item once, never more than are wanted, asked for no more than needed."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hma.client.paging import Pages
from hma.v1 import meta_agent_pb2


def serve(request: meta_agent_pb2.ListJobsRequest, total: int) -> tuple[Sequence[int], str]:
    """A page of the numbers below `total`, as the server cuts it."""
    assert request.page_size > 0, "0 would be the server's own size"
    start = int(request.page_token or 0)
    end = min(start + request.page_size, total)
    return range(start, end), str(end) if end < total else ""


@given(st.integers(0, 30), st.integers(1, 12), st.none() | st.integers(-1, 40))
def test_a_list_is_read_as_far_as_it_is_wanted(total: int, size: int, limit: int | None) -> None:
    pages = Pages(meta_agent_pb2.ListJobsRequest(), size, limit)
    seen: list[int] = []
    calls = 0
    while pages.more:
        seen += pages.turn(*serve(pages.request, total))
        calls += 1
    wanted = total if limit is None else min(max(limit, 0), total)
    assert seen == list(range(wanted))
    assert calls <= 1 + wanted // size


def test_a_server_that_sends_too_much_does_not_pass_the_limit() -> None:
    pages = Pages(meta_agent_pb2.ListJobsRequest(), 50, 3)
    assert pages.request.page_size == 3
    assert pages.turn([1, 2, 3, 4, 5], "more") == [1, 2, 3]
    assert not pages.more
