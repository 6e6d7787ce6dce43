"""The probe's questions, and whether an answer is right."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from importlib import resources

_WORD = re.compile(r"\w+(?:[.,]\d+)*")
_ARTICLES = frozenset(("a", "an", "the"))
_RIGHT = 0.6
# What models say when the text does not say it.
_NOTHING = re.compile(
    r"(none|n/?a|unknown|nothing|no answer|not? (stated|given|mentioned|specified|known|said"
    r"|answer(ed)?|available|provided)|(it|the (text|passage)) (does|is) not\b.*)\W*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a passage.

    Attributes:
        passage: A text of one to three sentences.
        question: The question.
        answers: Wordings that are right; none: the passage does not say.
    """

    passage: str
    question: str
    answers: tuple[str, ...]


def load_questions() -> tuple[Question, ...]:
    """All questions. Any first few of them are a fair mixture."""
    text = resources.files(__package__).joinpath("questions.json").read_text(encoding="utf-8")
    return tuple(
        Question(entry["passage"], entry["question"], tuple(entry["answers"]))
        for entry in json.loads(text)
    )


def is_blank(answer: str) -> bool:
    """Whether an answer says that there is none."""
    return not answer.strip() or _NOTHING.fullmatch(answer.strip()) is not None


def is_right(answer: str, question: Question) -> bool:
    """Whether an answer is right: most of its words and of a right wording's are the same.

    Two thirds or so (F1 of words of 0.6), articles and case aside, as reading comprehension
    is usually scored; numbers must be there. Without a right wording only no answer is right.
    """
    if not question.answers or is_blank(answer):
        return not question.answers and is_blank(answer)
    return any(_overlap(_words(answer), _words(right)) >= _RIGHT for right in question.answers)


def is_same(one: str, other: str) -> bool:
    """Whether two answers say the same, by their words."""
    if is_blank(one) or is_blank(other):
        return is_blank(one) and is_blank(other)
    return _words(one) == _words(other)


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [word for word in _WORD.findall(plain) if word not in _ARTICLES]


def _overlap(said: list[str], right: list[str]) -> float:
    if any(word[0].isdigit() and word not in said for word in right):
        return 0.0
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right)) if said or right else 0.0
