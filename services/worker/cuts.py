"""Look-ups that ran out of tokens: whether, and with how many, they are asked for again.

A grant may be smaller than what was asked for, because others wait for tokens. An answer
that was cut is never taken for whole; asked for again in the same size, it would be cut
again at the same place, because decoding is greedy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.worker.schemas import Size

_MORE = 2.0
"""A text that was cut is given this many times the tokens at best."""

_LEAST_MORE = 1.5
"""Less than this many times the tokens would mostly be cut again."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """The call in which an item was cut.

    Attributes:
        tokens: Completion tokens that it had for each of its items.
        wanted: Tokens that had been asked for, for each of them.
        alone: It was about this item only.
    """

    tokens: float
    wanted: float
    alone: bool


class Cuts:
    """Remembers which items were cut, and at how many tokens.

    Args:
        plain: The route's model answers in plain text, one item a call. More than its
            usual size it only fills with babble.
    """

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        self._cuts: dict[str, _Cut] = {}

    def record(self, item_ids: Sequence[str], of: int, tokens: int, size: Size) -> None:
        """Notes what a call came to; the latest call of an item counts.

        Args:
            item_ids: The items that it did not get to, or not whole.
            of: How many items it was about.
            tokens: Completion tokens at which it was cut; 0: it was not.
            size: What had been asked for.
        """
        for item_id in item_ids:
            self._cuts.pop(item_id, None)
            if tokens:
                self._cuts[item_id] = _Cut(tokens / of, size.most / of, alone=of == 1)

    def size(self, item_ids: Sequence[str], usual: Size, limit: int) -> Size:
        """Completion tokens of a call that asks for items again; the usual for others.

        Args:
            item_ids: The items of the call.
            usual: What they typically take.
            limit: Most that they may take; 0: no limit.
        """
        cuts = [self._cuts[item_id] for item_id in item_ids if item_id in self._cuts]
        if not cuts:
            return usual
        if self._plain:
            return Size(usual.most, usual.most)
        before = max(cut.tokens for cut in cuts) * len(item_ids)
        most = max(usual.most, math.ceil(_MORE * before))
        if limit:
            most = min(most, max(limit, usual.most))
        return Size(most, min(most, max(usual.most, math.ceil(_LEAST_MORE * before))))

    def may_go_better(self, item_id: str, most: int) -> bool:
        """Whether an item, asked for again with `most` tokens, may come whole.

        True as well for a JSON text that was not cut: its fault may be mended.
        """
        cut = self._cuts.get(item_id)
        if cut is None:
            # In plain text it would be the same prompt, and so the same answer.
            return not self._plain
        if self._plain:
            return cut.tokens < cut.wanted
        return not cut.alone or most > cut.tokens
