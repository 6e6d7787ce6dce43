"""A scripted model that can do everything a probe asks for, within limits that tests set."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from hma.llm.probing.questions import Question, load_questions
from tests.scripted_llm import Reply
from tests.scripted_llm.call import Call

_ITEM = re.compile(r"^(q\d+): (.+?)(?:<\|im_end\|>)?$", re.MULTILINE)
_FINDING = re.compile(r"^\[(q\d+)\] (.+)\.(?:<\|im_end\|>)?$", re.MULTILINE)
_HEADING = re.compile(r"^(d\d+#\d+): (.+)$", re.MULTILINE)
# Which section answers which item of the probe's plan requests, by words of theirs.
_SIGNS = (
    ("keys", "Keys"), ("breakfast", "Breakfast"), ("fire", "Fire"), ("detergent", "Laundry"),
    ("berth cost", "Fees"), ("dredged", "Dredging"), ("crane", "crane"),
)  # fmt: skip


@dataclass
class StrongModel:
    """Answers every question right; a script for `ScriptedLLM`.

    Attributes:
        thoughts: Tokens that it thinks when it may.
        obeys_think_budget: It stops thinking when told.
        best_batch: More items in one call are answered wrong.
        wrong_every: Every so many questions it is wrong, and less sure.
        plans, reduces, calls_tools: What it can do.
        refused: Keys of a request's body that the server answers 400 to.
    """

    thoughts: int = 0
    obeys_think_budget: bool = True
    best_batch: int = 8
    wrong_every: int = 0
    plans: bool = True
    reduces: bool = True
    calls_tools: bool = True
    refused: tuple[str, ...] = ()

    def __call__(self, call: Call) -> Reply:
        body, prompt = call.body, call.prompt
        sent = {**body, **(body.get("stream_options") or {})}
        if any(sent.get(key) for key in self.refused):
            return Reply(status=400, message="unknown parameter")
        reply = self._answer(body, prompt)
        arguments = body.get("chat_template_kwargs") or {}
        if not (self.thoughts and arguments.get("enable_thinking")):
            return reply
        budget = body.get("thinking_token_budget") if self.obeys_think_budget else None
        thoughts = min(self.thoughts, budget or self.thoughts)
        return Reply(text=reply.text or "Fourteen.", reasoning=" hm" * thoughts)

    def _answer(self, body: dict[str, Any], prompt: str) -> Reply:
        if body.get("tools"):
            calls = (("water_level", {"river": "Ame"}),) if self.calls_tools else ()
            return Reply(text="I cannot say.", tool_calls=calls)
        if "You plan work" in prompt:
            return Reply(json=self._plan(prompt))
        if "You write the final answer" in prompt:
            found = _FINDING.findall(prompt)
            # What gets lost first is an id.
            ids = [f" [{key}]" for key, _ in found[: None if self.reduces else -1]] + [""]
            return Reply(text=" ".join(f"{t}{i}." for (_, t), i in zip(found, ids, strict=False)))
        if "long story" in prompt:
            return Reply(text="The keeper lit the lamp. " * 40)
        if "Count from one" in prompt:
            return Reply(text="one two three four five six seven eight nine ten eleven twelve")
        if "Items:" in prompt:
            return self._batch(prompt)
        asked = [q for q in load_questions() if q.question in prompt]
        if asked and "Answer:" in prompt:
            return self._plain(asked[-1])
        return Reply()

    def _plan(self, prompt: str) -> dict[str, Any]:
        sections = _HEADING.findall(prompt)
        tasks = [
            {
                "do": f"Find out: {text}",
                "in": [key for key, heading in sections if _right(text) in heading],
                "after": [],
                "size": "low",
                "items": [item],
            }
            for item, text in _ITEM.findall(prompt)
        ]
        if not self.plans:
            del tasks[0]
        return {"shape": "team", "n": len(tasks), "tasks": tasks}

    def _batch(self, prompt: str) -> Reply:
        asked = {q.question: q for q in load_questions()}
        items = [(item, asked[text]) for item, text in _ITEM.findall(prompt)]
        good = len(items) <= self.best_batch
        said = [
            {"id": item, "answer": self._said(q) if good else "forty-two pigs", "evidence": ""}
            for item, q in items
        ]
        logprob = min(self._logprob(question) for _, question in items)
        return Reply(text=json.dumps({"items": said, "notes": ""}), logprob=logprob)

    def _plain(self, question: Question) -> Reply:
        return Reply(text=f" {self._said(question)}", logprob=self._logprob(question))

    def _said(self, question: Question) -> str:
        if self._errs(question):
            return "forty-two pigs"
        return question.answers[0] if question.answers else ""

    def _errs(self, question: Question) -> bool:
        number = load_questions().index(question)
        return bool(self.wrong_every) and number % self.wrong_every == 0

    def _logprob(self, question: Question) -> float:
        return -2.0 if self._errs(question) else -0.1


def _right(text: str) -> str:
    return next(heading for sign, heading in _SIGNS if sign in text)
