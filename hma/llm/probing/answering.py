"""How well the model answers: alone, in batches, and what its signals are worth.

The prompts are like a Worker's: for plain text one passage and one question after a few
examples; for JSON rules, sources, items by id, answer and evidence for each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hma.errors import CallFailed
from hma.llm.base import Message, Prompt
from hma.llm.calibration import Outcome
from hma.llm.probing.calling import Caller
from hma.llm.probing.questions import Question, is_blank, is_right, is_same
from hma.text.grounding import find_verbatim
from hma.v1 import common_pb2

PLAIN_EXAMPLES = 3
_PLAIN_TOKENS = 32
_ITEM_TOKENS = 96
_ENVELOPE_TOKENS = 32
_SECOND_TEMPERATURE = 0.7

_PLAIN_RULES = "Answer with the shortest words copied from the text."
_SHOWN = (
    ("The gate is painted green every other spring.", "What colour is the gate?", "green"),
    ("Olga grinds the flour; her brother sells it in Varn.", "Who sells the flour?", "her brother"),
    ("The lamp needs two litres of oil a week.", "How much oil does it need?", "two litres a week"),
)
_JSON_RULES = """\
You are a careful analyst. Answer each item by its id.
- An answer is the shortest wording that answers the item fully, copied from its source.
- evidence: the sentence that carries the answer, copied word for word; "" when there is none.
- When the source does not hold an answer, its answer is "". Do not guess.
Reply with one JSON object and nothing else:
{"items": [{"id": "<id>", "answer": "<answer>", "evidence": "<quote>"}], "notes": ""}
One entry per item, in the order asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered to a question.

    Attributes:
        question: The question.
        text: The answer; None when what the model wrote could not be read.
        mean_logprob: Of its call.
        prompt_tokens: Of its call.
        completion_tokens: Of its call, its share of them in a batch.
        again: A second attempt's answer; None: there was none.
    """

    question: Question
    text: str | None
    mean_logprob: float
    prompt_tokens: int
    completion_tokens: int
    again: str | None = None

    @property
    def right(self) -> bool:
        """Whether it is right."""
        return self.text is not None and is_right(self.text, self.question)

    @property
    def outcome(self) -> Outcome | None:
        """For calibration; None when nothing was answered, for then nothing can be wrong."""
        if self.text is None or is_blank(self.text):
            return None
        return Outcome(
            good=self.right,
            grounded=find_verbatim(self.text, self.question.passage) is not None,
            mean_logprob=self.mean_logprob,
            agreed=None if self.again is None else is_same(self.text, self.again),
        )


async def ask_plainly(caller: Caller, question: Question, *, temperature: float = 0.0) -> Answer:
    """Asks one question in plain text.

    Raises:
        CallFailed: The call was not made, or failed.
    """
    shown = "".join(
        f"{text}\nQuestion: {asked}\nAnswer: {said}\n\n" for text, asked, said in _SHOWN
    )
    last = f"{question.passage}\nQuestion: {question.question}\nAnswer:"
    messages = (Message("system", _PLAIN_RULES), Message("assistant", shown + last))
    prompt = Prompt(messages, temperature=temperature, stop=("\n",))
    called = await caller.call("answer", prompt, most=_PLAIN_TOKENS)
    usage, text = called.usage, called.completion.text
    answer = text.strip().removeprefix("Answer:").strip().strip('"')
    return Answer(
        question,
        answer,
        called.completion.mean_logprob,
        usage.prompt_tokens,
        usage.completion_tokens,
    )


async def ask_in_json(
    caller: Caller, questions: Sequence[Question], *, temperature: float = 0.0
) -> list[Answer]:
    """Asks several questions in one call, constrained to a schema.

    Raises:
        CallFailed: The call was not made, or failed.
    """
    ids = [f"q{number}" for number in range(1, len(questions) + 1)]
    prompt = Prompt(_messages(ids, questions), _schema(ids), temperature=temperature)
    most = _ENVELOPE_TOKENS + _ITEM_TOKENS * len(questions)
    called = await caller.call("answer", prompt, most=most)
    said = _read(called.completion.text)
    each = -(-called.usage.completion_tokens // len(questions))
    return [
        Answer(
            question,
            said.get(item_id),
            called.completion.mean_logprob,
            called.usage.prompt_tokens,
            each,
        )
        for item_id, question in zip(ids, questions, strict=True)
    ]


async def ask_all(
    caller: Caller, questions: Sequence[Question], style: str, *, batch: int = 1
) -> tuple[list[Answer], CallFailed | None]:
    """Asks questions, several calls at a time.

    Args:
        caller: Makes the calls.
        questions: What to ask.
        style: "json" or "plain".
        batch: Questions in one call; with "json" only.

    Returns:
        The answers that there are, and why there are no more; None: there are all.
    """
    if style == "plain":
        return await caller.each(questions, lambda question: ask_plainly(caller, question))
    parts = [questions[at : at + batch] for at in range(0, len(questions), batch)]
    answered, failure = await caller.each(parts, lambda part: ask_in_json(caller, part))
    return [answer for part in answered for answer in part], failure


async def ask_again(
    caller: Caller, answers: Sequence[Answer], style: str
) -> tuple[list[Answer], CallFailed | None]:
    """Asks a second time, less greedily, to see whether attempts agree.

    Returns:
        The answers with their second attempts, and why there are no more.
    """

    async def once_more(answer: Answer) -> Answer:
        question = answer.question
        if style == "plain":
            second = await ask_plainly(caller, question, temperature=_SECOND_TEMPERATURE)
        else:
            (second,) = await ask_in_json(caller, [question], temperature=_SECOND_TEMPERATURE)
        return replace(answer, again=second.text or "")

    return await caller.each(answers, once_more)


def share_right(answers: Sequence[Answer]) -> float:
    """Share of right answers; 0 without answers."""
    return sum(answer.right for answer in answers) / len(answers) if answers else 0.0


def is_out_of_budget(failure: CallFailed | None) -> bool:
    """Whether asking ended because the purse or the time did."""
    return failure is not None and failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET


def _messages(ids: Sequence[str], questions: Sequence[Question]) -> tuple[Message, ...]:
    sources = "\n".join(
        f'<source id="{item_id}">\n{question.passage}\n</source>'
        for item_id, question in zip(ids, questions, strict=True)
    )
    items = "\n".join(
        f"{item_id}: {question.question}" for item_id, question in zip(ids, questions, strict=True)
    )
    return (Message("system", _JSON_RULES), Message("user", f"{sources}\n\nItems:\n{items}"))


def _schema(ids: Sequence[str]) -> dict[str, Any]:
    item = {
        "id": {"type": "string", "enum": list(ids)},
        "answer": {"type": "string", "maxLength": 160},
        "evidence": {"type": "string", "maxLength": 300},
    }
    entry = {
        "type": "object",
        "properties": item,
        "required": list(item),
        "additionalProperties": False,
    }
    entries = {"type": "array", "items": entry, "minItems": len(ids), "maxItems": len(ids)}
    return {
        "type": "object",
        "properties": {"items": entries, "notes": {"type": "string", "maxLength": 80}},
        "required": ["items", "notes"],
        "additionalProperties": False,
    }


def _read(text: str) -> dict[str, str]:
    """The answers by id; none when the text is no such JSON (cut off, say)."""
    try:
        return {entry["id"]: entry["answer"] for entry in json.loads(text)["items"]}
    except (ValueError, KeyError, TypeError):
        return {}
