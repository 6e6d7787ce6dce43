"""Lists that come page by page, as both clients read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class PageRequest(Protocol):
    """A request for one page (AIP-158)."""

    page_size: int
    page_token: str


RequestT = TypeVar("RequestT", bound=PageRequest)


class Pages(Generic[RequestT]):
    """Where the reading of a list stands.

    Args:
        request: Asks for the first page; turned to the next one with each page.
        page_size: Items per call.
        limit: At most this many items in all; None: all there are.
    """

    def __init__(self, request: RequestT, page_size: int, limit: int | None = None) -> None:
        self.request = request
        self._page_size = page_size
        self._left = limit
        self._last = False
        self._resize()

    @property
    def more(self) -> bool:
        """Whether another page is to be asked for."""
        return not self._last and (self._left is None or self._left > 0)

    def turn(self, items: Sequence[T], next_page_token: str) -> Sequence[T]:
        """Takes a page; the items of it that are wanted."""
        wanted = items if self._left is None else items[: self._left]
        if self._left is not None:
            self._left -= len(wanted)
        self.request.page_token = next_page_token
        self._last = not next_page_token
        self._resize()
        return wanted

    def _resize(self) -> None:
        left = self._page_size if self._left is None else self._left
        self.request.page_size = min(self._page_size, left)
