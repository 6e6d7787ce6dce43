"""What so many tokens buy best: which tasks are funded, and which wait. Pure.

The whole needs of a plan are compared with the tokens; while they exceed them, the least
valuable work is taken out, leaves of the graph first. Greedy by gain per token, so within
one task's gain of the best choice (the bound of the fractional knapsack; Dantzig 1957) as
long as tasks do not depend on each other.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Set
from dataclasses import dataclass

from hma.v1 import job_pb2
from services.meta_agent.job.state import TaskFold

KEPT = 1.25
"""How much better than a task that has its tokens another must be to get them."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a task that has not begun, or waits for its next try, needs and is worth.

    Attributes:
        task: The task.
        tokens: What what is open of it is expected to cost.
        floor: Below this, trying is hopeless.
        value: What it is expected to be worth; no gain for what only serves others.
        height: Tasks on the longest chain that waits for it.
    """

    task: TaskFold
    tokens: int
    floor: int
    value: job_pb2.ValueEstimate
    height: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What so many tokens are to buy.

    Attributes:
        whole: Paid for as a whole: the longest chains first, then the best per token.
        partial: What is left lets them begin; best first.
        waiting: The others, in the order in which they were taken out.
    """

    whole: tuple[Need, ...]
    partial: tuple[Need, ...]
    waiting: tuple[Need, ...]


class _Graph:
    """Which of the needs wait for which: `before` and `after` by uid."""

    def __init__(self, needs: Mapping[str, Need]) -> None:
        uid_of = {need.task.task.id: uid for uid, need in needs.items()}
        self.before = {
            uid: [uid_of[n] for n in dict.fromkeys(need.task.task.depends_on) if n in uid_of]
            for uid, need in needs.items()
        }
        self.after: dict[str, list[str]] = {uid: [] for uid in needs}
        for uid, names in self.before.items():
            for name in names:
                self.after[name].append(uid)

    def ancestors(self, uid: str) -> list[str]:
        """All that a task waits for, directly or not."""
        found: dict[str, None] = {}
        stack = list(self.before[uid])
        while stack:
            name = stack.pop()
            if name not in found:
                found[name] = None
                stack += self.before[name]
        return list(found)


def choose(needs: Mapping[str, Need], tokens: int, holders: Set[str] = frozenset()) -> Choice:
    """What to fund with so many tokens, and what has to wait.

    While the needs exceed the tokens, the leaf of least gain per token is taken out: a
    task that no task still in needs. What only served tasks that are out goes with them.
    What is left over then buys what fits of the rest, the best first, with what it needs.

    Args:
        needs: In plan order.
        tokens: What there is for them.
        holders: Uids of those that have their tokens. They keep them unless another is
            clearly better: what goes to and fro buys nothing.
    """
    graph = _Graph(needs)
    dependents = {uid: len(after) for uid, after in graph.after.items()}
    places = {uid: place for place, uid in enumerate(needs)}

    def rank(uid: str) -> tuple[float, int, str]:
        margin = KEPT if uid in holders else 1.0
        value = needs[uid].value
        worth = margin * value.gain_per_1000_tokens if value.items else -1.0
        # Later ones of equals go first: plans put what matters early.
        return worth, -places[uid], uid

    leaves = [rank(uid) for uid in needs if not dependents[uid]]
    heapq.heapify(leaves)
    total = sum(need.tokens for need in needs.values())
    inside, freed = dict(needs), set[str]()
    out: dict[str, Need] = {}
    while leaves and (total > tokens or leaves[0][2] in freed):
        uid = heapq.heappop(leaves)[2]
        out[uid] = inside.pop(uid)
        total -= out[uid].tokens
        for before in graph.before[uid]:
            dependents[before] -= 1
            if not dependents[before]:
                heapq.heappush(leaves, rank(before))
                if not needs[before].value.items:
                    freed.add(before)
    partial = _bring_back(graph, inside, out, tokens - total)
    order = sorted(inside.values(), key=lambda need: (-need.height, *_best_first(need)))
    return Choice(tuple(order), tuple(partial), tuple(out.values()))


def _bring_back(
    graph: _Graph, inside: dict[str, Need], out: dict[str, Need], left: int
) -> list[Need]:
    """Spends what is left on what was taken out; returns what it only lets begin."""
    partial: list[Need] = []
    for need in sorted(out.values(), key=_best_first):
        uid = need.task.uid
        if uid in inside or need.value.gain <= 0:
            continue
        ancestors = graph.ancestors(uid)
        if any(name not in inside and name not in out for name in ancestors):
            continue  # one of them only begins
        first = [name for name in ancestors if name in out]
        before = sum(out[name].tokens for name in first)
        if before + need.floor > left:
            continue
        for name in first:
            inside[name] = out.pop(name)
        del out[uid]
        if before + need.tokens <= left:
            inside[uid] = need
            left -= before + need.tokens
        else:
            partial.append(need)
            left = 0
    return partial


def _best_first(need: Need) -> tuple[float, int]:
    return -need.value.gain_per_1000_tokens, need.tokens
