"""Whether a tenant's limits have room for a job, and what it draws first. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.meta_agent.store.quota_limits import WINDOWS, Limits, draws_tokens
from services.meta_agent.store.quota_use import Use, full_window, token_room


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a job needs to begin.

    Attributes:
        budget: Tokens that it may spend.
        least: Tokens below which beginning is of no use.
        price: Most money that one of its tokens can cost.
    """

    budget: int
    least: int = 1
    price: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of it.

    Attributes:
        drawn: Tokens that it draws first; None: it spends its budget, for no window
            limits tokens.
        full: The limit that has no room; empty: it is accepted.
        lacking: How much must leave that limit's window first.
        hopeless: Time alone will not help: the limit is less than what it needs.
    """

    drawn: int | None = None
    full: str = ""
    lacking: float = 0.0
    hopeless: bool = False


def judge(limits: Limits, use: Use, wish: Wish, tranche: int) -> Verdict:
    """Accepts a job or says what is in its way."""
    full = full_window(limits, use)
    if full:
        return Verdict(full=full, lacking=use.used(full) + 1 - limits[full])
    if not draws_tokens(limits):
        return Verdict()
    room = token_room(limits, use, wish.price)
    least = min(max(wish.least, 1), wish.budget)
    if room.tokens < least:
        lacking = float(least - room.tokens)
        if WINDOWS[room.limit].what == "cost":
            lacking *= wish.price
        else:
            lacking = use.used(room.limit) + least - limits[room.limit]
        return Verdict(full=room.limit, lacking=lacking, hopeless=least > room.most)
    wanted = min(wish.budget, max(tranche, least))
    return Verdict(drawn=wanted if room.tokens == math.inf else min(wanted, int(room.tokens)))
