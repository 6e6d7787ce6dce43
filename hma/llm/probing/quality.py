"""What the questions show: style, batches, sizes, accuracy, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

from hma.errors import CallFailed
from hma.llm.calibration import fit
from hma.llm.probing.answering import (
    PLAIN_EXAMPLES,
    Answer,
    ask_again,
    ask_all,
    is_out_of_budget,
    share_right,
)
from hma.llm.probing.calling import Caller
from hma.llm.probing.findings import Finding
from hma.llm.probing.notebook import Notebook
from hma.llm.probing.questions import Question, load_questions

Style = Literal["json", "plain"]

_OF_A_STYLE = (
    "max_batch",
    "answer_tokens",
    "prompt_tokens",
    "examples",
    "accuracy",
    "calibration",
)
_BATCHES = (2, 4, 8)
_TO_CHOOSE_A_STYLE = 8
_IN_BATCHES = 16
_TWICE = 12
# One of ten answers may get worse in a batch: the rest of the prompt is paid once.
_TOLERANCE = 0.1
# Below this share of right answers batches cannot be told from luck.
_LEAST_RIGHT = 0.25
# Fewer outcomes say too little for a curve.
_LEAST_OUTCOMES = 10
_MARGIN = 1.5
_ROUNDING = 8


async def probe_answers(caller: Caller, notes: Notebook) -> None:
    """How well it answers; takes what is left of the budget."""
    questions = load_questions()
    chosen = await _choose_style(caller, notes, questions[:_TO_CHOOSE_A_STYLE])
    if chosen is None:
        # Sizes, batches and signals are those of a style; of the wrong one they mislead.
        for name in _OF_A_STYLE:
            notes.note(Finding.missed(name, "it is not known how the model answers best"))
        return
    style, answers = chosen
    more, failure = await ask_all(caller, questions[_TO_CHOOSE_A_STYLE:_IN_BATCHES], style)
    answers += more
    batched = await _max_batch(caller, notes, answers, style, failure)
    if not is_out_of_budget(failure):
        answered = {answer.question for answer in answers}
        left = [question for question in questions if question not in answered]
        more, _ = await ask_all(caller, left, style)
        answers += more
    _note_sizes(caller, notes, answers, style)
    _note_accuracy(notes, answers)
    twice, _ = await ask_again(caller, answers[:_TWICE], style)
    again = {answer.question: answer for answer in twice}
    judged = [again.get(answer.question, answer) for answer in answers] + batched
    _note_calibration(notes, judged, len(twice))


async def _choose_style(
    caller: Caller, notes: Notebook, questions: Sequence[Question]
) -> tuple[Style, list[Answer]] | None:
    """Asks in plain text and in JSON, if that can be had, and keeps the better way.

    Returns:
        The style and its answers; None when it could not be told.
    """
    can = {f.feature: f.value for f in notes.features}.get("constrains_json")
    if can is None:
        notes.note(Finding.missed("answer_style", "it is not known whether JSON can be had"))
        return None
    plain, failure = await ask_all(caller, questions, "plain")
    if failure is None and not can:
        why = "the server does not constrain JSON"
        notes.note(Finding.measured("answer_style", "plain", why))
        return "plain", plain
    in_json: list[Answer] = []
    if failure is None:
        in_json, failure = await ask_all(caller, questions, "json")
    if failure is not None:
        notes.note(Finding.missed("answer_style", failure.message))
        return None
    better: Style = "json" if share_right(in_json) >= share_right(plain) else "plain"
    note = f"right: {_share(in_json)} in JSON, {_share(plain)} in plain text"
    notes.note(Finding.measured("answer_style", better, note))
    return better, in_json if better == "json" else plain


async def _max_batch(
    caller: Caller,
    notes: Notebook,
    alone: Sequence[Answer],
    style: Style,
    failure: CallFailed | None,
) -> list[Answer]:
    """Finds how many items one call answers as well as many; gives the good batches' answers."""
    if style == "plain":
        notes.note(Finding.measured("max_batch", 1, "plain text holds one answer"))
        return []
    if failure is not None:
        notes.note(Finding.missed("max_batch", failure.message))
        return []
    questions = [answer.question for answer in alone]
    if share_right(alone) < _LEAST_RIGHT:
        note = f"alone only {_share(alone)} are right"
        notes.note(Finding.measured("max_batch", 1, note))
        return []
    shares, most = [f"{_share(alone)} alone"], 1
    kept: list[Answer] = []
    for size in _BATCHES:
        answers, failure = await ask_all(caller, questions, style, batch=size)
        if failure is not None:
            note = f"right: {', '.join(shares)}; with {size}: {failure.message}"
            notes.note(Finding.missed("max_batch", note))
            return kept
        shares.append(f"{_share(answers)} with {size}")
        if share_right(answers) < share_right(alone) - _TOLERANCE:
            break
        kept += answers
        most = size
    notes.note(Finding.measured("max_batch", most, f"right: {', '.join(shares)}"))
    return kept


def _note_sizes(caller: Caller, notes: Notebook, answers: Sequence[Answer], style: Style) -> None:
    """Typical sizes of prompts and answers."""
    longest = max(answer.completion_tokens for answer in answers)
    # It is what a Worker's calls ask for: a cut answer is lost, unused tokens come back.
    rounded = math.ceil(longest * _MARGIN / _ROUNDING) * _ROUNDING
    note = f"the longest of {len(answers)} answers had {longest}; half as much on top"
    notes.note(Finding.measured("answer_tokens", rounded, note))
    prompt = round(median(answer.prompt_tokens for answer in answers))
    if caller.route.profile.retrieval == "section":
        note = f"depends on your documents' sections; over one short passage it is {prompt}"
        notes.note(Finding.void("prompt_tokens", note))
    else:
        notes.note(Finding.measured("prompt_tokens", prompt, "median, over one short passage"))
    examples = PLAIN_EXAMPLES if style == "plain" else 0
    notes.note(Finding.measured("examples", examples, "as it was asked"))


def _note_accuracy(notes: Notebook, answers: Sequence[Answer]) -> None:
    told = [answer for answer in answers if answer.question.answers]
    untold = [answer for answer in answers if not answer.question.answers]
    note = f"{_share(told)} where the passage says it, {_share(untold)} where it does not"
    notes.note(Finding.measured("accuracy", round(share_right(answers), 3), note))


def _note_calibration(notes: Notebook, answers: Sequence[Answer], twice: int) -> None:
    outcomes = [outcome for answer in answers if (outcome := answer.outcome) is not None]
    if len(outcomes) < _LEAST_OUTCOMES:
        note = f"{len(outcomes)} answers were given; {_LEAST_OUTCOMES} are needed"
        notes.note(Finding.missed("calibration", note))
        return
    note = f"right when it stands in its source / when not; from {len(outcomes)} answers"
    if twice:
        note += f", {twice} of them given twice"
    notes.note(Finding.measured("calibration", fit(outcomes), note))


def _share(answers: Sequence[Answer]) -> str:
    return f"{sum(answer.right for answer in answers)} of {len(answers)}"
