"""The demo's questions, and which answers count. Pure, but for reading its data file.

The questions stand in `demo.json` beside this module: each with the answers that are
accepted. An answer is a hit when it contains an accepted one as whole words, case and
spacing aside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from hma.v1 import common_pb2, job_pb2

_NUMBERED = re.compile(r"^\W*(?:q|question\s*)?(\d{1,3})\s*[.):\-]+\s*(.*)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with a checkable answer.

    Attributes:
        text: The question.
        accept: Any of these in an answer makes it a hit.
    """

    text: str
    accept: tuple[str, ...]

    def hit(self, answer: str) -> bool:
        """Whether `answer` holds an accepted one."""
        return any(_found(accepted, answer) for accepted in self.accept)


@dataclass(frozen=True, slots=True)
class DemoJob:
    """What the demo asks.

    Attributes:
        task: What to do with the questions.
        documents: Paths below the repository's root.
        budget: In tokens.
        deadline: As text: "2m".
        questions: At least one.
    """

    task: str
    documents: tuple[str, ...]
    budget: int
    deadline: str
    questions: tuple[Question, ...]

    @property
    def description(self) -> str:
        """The task description: the task and the numbered questions."""
        lines = [f"{number}. {q.text}" for number, q in enumerate(self.questions, 1)]
        return "\n".join([self.task, "", *lines])


def load() -> DemoJob:
    """The demo of this version."""
    data = resources.files("hma.cli").joinpath("demo.json").read_text(encoding="utf-8")
    return parse(json.loads(data))


def parse(data: dict[str, Any]) -> DemoJob:
    """A demo from its JSON."""
    return DemoJob(
        task=data["task"],
        documents=tuple(data["documents"]),
        budget=data["budget"],
        deadline=data["deadline"],
        questions=tuple(
            Question(entry["question"], tuple(entry["accept"])) for entry in data["questions"]
        ),
    )


@dataclass(frozen=True, slots=True)
class Given:
    """The answer to one question.

    Attributes:
        answer: The words; empty when there is none.
        extract: Whether it was copied from a document without a model.
    """

    answer: str
    extract: bool = False


def answers_of(job: job_pb2.Job, questions: Sequence[Question]) -> list[Given]:
    """The job's answer to each question: by the item with its words, else by position."""
    by_text = {_plain(item.text): item.item_id for item in job.items}
    by_id = {answer.item_id: answer for answer in job.answer.items}
    given = []
    for number, question in enumerate(questions, 1):
        found = by_id.get(by_text.get(_plain(question.text), f"q{number}"))
        if found is None:
            given.append(Given(""))
        else:
            given.append(Given(found.answer, found.origin == common_pb2.ORIGIN_EXTRACT))
    return given


def split_reply(reply: str, count: int) -> list[str]:
    """The answers in a free-text reply to `count` numbered questions.

    Lines that begin with a number answer that question. A reply without such lines is
    taken as a whole for every question, which is generous to it.
    """
    found: dict[int, list[str]] = {}
    current = 0
    for line in reply.splitlines():
        match = _NUMBERED.match(line)
        if match is not None and 1 <= int(match[1]) <= count:
            current = int(match[1])
            found.setdefault(current, []).append(match[2])
        elif current:
            found[current].append(line)
    if not found:
        return [reply] * count
    return ["\n".join(found.get(number, [])) for number in range(1, count + 1)]


def _found(accepted: str, answer: str) -> bool:
    pattern = r"\s+".join(re.escape(part) for part in accepted.split())
    # A "20" within "2025" or "1.20" is another number.
    return re.search(rf"(?<![\w.]){pattern}(?!\w|\.\d)", answer, re.IGNORECASE) is not None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"^\W*\d+[.)]\s*", "", text).casefold().split())
