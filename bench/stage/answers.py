"""What the scripted model says: answers of a believable length to whatever is asked."""

from __future__ import annotations

import random
import re

from tests.scripted_llm import Call, Reply, say

_ITEM = re.compile(r"^(\S+): ", re.MULTILINE)
_WORDS = ("the", "mill", "river", "1764", "stone", "Anna", "Hale", "north", "wheel", "bridge")

DOCUMENT = ("mills.md", f"# Mills\n\nIn the mill book it says: {', '.join(_WORDS)}.\n")
"""A document that every word of an answer stands in."""

PLAN = {
    "brief": {
        "objective": "Answer the questions.",
        "audience": "",
        "constraints": [],
        "acceptance": [],
        "dropped": [],
    },
    "shape": "team",
    "n": 0,
    "tasks": [],
}
"""A plan of nothing: code completes it by question."""


def words(dice: random.Random, least: int, most: int) -> str:
    """So many words, at random."""
    return " ".join(dice.choices(_WORDS, k=dice.randint(least, most)))


def asked_ids(call: Call) -> list[str]:
    """Ids of the items that a call in JSON is about; none of one in plain text."""
    _, found, listed = call.prompt.rpartition("Items:\n")
    return _ITEM.findall(listed) if found else []


class Reader:
    """Answers every item with a few words, and quotes a few more.

    Args:
        seed: Of the answers; the same call is answered alike in every run.
        answer: Fewest and most words of an answer.
        evidence: Fewest and most words of a quotation.
        more: Fields of `Reply` for every answer.
    """

    def __init__(
        self,
        seed: int,
        answer: tuple[int, int] = (1, 6),
        evidence: tuple[int, int] = (6, 20),
        **more: object,
    ) -> None:
        self._seed = seed
        self._answer = answer
        self._evidence = evidence
        self._more = more

    def __call__(self, call: Call) -> Reply:
        """The reply to a call."""
        dice = random.Random(f"{self._seed}/{call.prompt[-400:]}")
        if call.purpose == "PLAN":
            return Reply(json=PLAN, **self._more)  # type: ignore[arg-type]
        if call.purpose == "REDUCE":
            return say(words(dice, 60, 200), **self._more)
        ids = asked_ids(call)
        if not ids:
            return say(f" {words(dice, *self._answer)}\n", **self._more)
        items = [
            {
                "id": name,
                "answer": words(dice, *self._answer),
                "evidence": words(dice, *self._evidence),
            }
            for name in ids
        ]
        return Reply(json={"items": items, "notes": ""}, **self._more)  # type: ignore[arg-type]
