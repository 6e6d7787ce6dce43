"""A hard limit on thoughts, also where the server sets none.

A server that honours `thinking_token_budget` ends the thoughts at the budget and goes on
with the answer. Any other one may think until `max_tokens` is gone, so its thoughts are
counted while they come and the call is cut when they exceed their budget. What was
thought is lost then, and the prompt has to be paid for again by a call that answers
without thinking; that call is funded first: its tokens are part of the grant for the
thinking call and are never sent as its `max_tokens`.
"""

from __future__ import annotations

from hma.llm.collect import Collector
from hma.llm.routes import Route

TEMPLATE_TOKENS = 16
"""Prompt tokens that chat templates add to switch thinking off: an empty thought."""

GRACE_TOKENS = 16
"""Thoughts beyond the budget of a server that honours it: the marks that end them."""


def kept_for_the_answer(route: Route, prompt_tokens: int, answer_tokens: int) -> int:
    """Tokens of a thinking call's grant that pay for a call without thoughts after it.

    Zero where the server itself ends the thoughts.

    Args:
        route: Where the call goes.
        prompt_tokens: Of the thinking call; the other one says the same.
        answer_tokens: What the answer needs.
    """
    if route.profile.honours_think_budget:
        return 0
    return prompt_tokens + TEMPLATE_TOKENS + answer_tokens


def exceeds(route: Route, collector: Collector, budget: int) -> bool:
    """Whether a call has thought for longer than its budget and has still not begun to answer.

    A server that honours budgets is watched as well: with speculative decoding some do
    not, whatever they say.

    Args:
        route: Where the call runs.
        collector: What it has said so far.
        budget: Most tokens of thoughts.
    """
    grace = GRACE_TOKENS if route.profile.honours_think_budget else 0
    return not collector.answering and collector.thought_tokens > budget + grace
