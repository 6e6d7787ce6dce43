"""A job's answers beside those of one plain call: hits, tokens, time. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from hma.cli.demo_job import Given, Question, answers_of, split_reply
from hma.cli.plain_call import PlainReply
from hma.cli.reading import when
from hma.cli.wording import count, one_line, seconds
from hma.v1 import job_pb2


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides.

    Attributes:
        questions: What was asked.
        ours: The job's answers, one a question.
        theirs: The plain call's, one a question.
        tokens: What the job spent.
        seconds: How long it took.
        plain: The plain call; None when it did not work.
        problem: Why it did not.
    """

    questions: tuple[Question, ...]
    ours: tuple[Given, ...]
    theirs: tuple[str, ...]
    tokens: int
    seconds: float
    plain: PlainReply | None
    problem: str = ""

    @classmethod
    def of(
        cls,
        questions: tuple[Question, ...],
        job: job_pb2.Job,
        plain: PlainReply | None,
        problem: str = "",
    ) -> Comparison:
        """Compares an ended job with a plain call."""
        theirs = split_reply(plain.text if plain is not None else "", len(questions))
        return cls(
            questions,
            tuple(answers_of(job, questions)),
            tuple(theirs),
            job.ledger.spent_tokens,
            when(job.end_time) - when(job.create_time),
            plain,
            problem,
        )

    @property
    def our_hits(self) -> list[Given]:
        """The job's answers that are hits."""
        pairs = zip(self.questions, self.ours, strict=True)
        return [given for question, given in pairs if question.hit(given.answer)]

    @property
    def their_hits(self) -> int:
        """How many answers of the plain call are hits."""
        pairs = zip(self.questions, self.theirs, strict=True)
        return sum(question.hit(answer) for question, answer in pairs)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        rows = [
            {
                "question": question.text,
                "accept": list(question.accept),
                "hma": {**asdict(given), "hit": question.hit(given.answer)},
                "plain": {"answer": answer, "hit": question.hit(answer)},
            }
            for question, given, answer in zip(self.questions, self.ours, self.theirs, strict=True)
        ]
        return {
            "rows": rows,
            "hma": {
                "hits": len(self.our_hits),
                "tokens": self.tokens,
                "seconds": round(self.seconds, 3),
            },
            "plain": {"hits": self.their_hits, **asdict(self.plain)} if self.plain else None,
            "problem": self.problem,
        }

    def render(self) -> list[RenderableType]:
        """For people: every question with both answers, and the sums."""
        grid = Table(
            box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", expand=True
        )
        for name, ratio in (("question", 4), ("expected", 2), ("HMA", 3), ("one plain call", 3)):
            grid.add_column(name, ratio=ratio, no_wrap=True, overflow="ellipsis")
        for question, given, answer in zip(self.questions, self.ours, self.theirs, strict=True):
            note = " (extract)" if given.extract else ""
            grid.add_row(
                Text(question.text),
                Text(question.accept[0]),
                _marked(question.hit(given.answer), one_line(given.answer, 120) + note),
                _marked(question.hit(answer), one_line(answer, 120)),
            )
        return [Rule("how many were hit", align="left"), grid, Text(), self._us(), self._them()]

    def _us(self) -> Text:
        extracts = sum(given.extract for given in self.our_hits)
        aside = f", {extracts} of them extracted without a model" if extracts else ""
        return Text(
            f"HMA: {len(self.our_hits)} of {len(self.questions)} hit{aside}; "
            f"{count(self.tokens, 'token')}, {seconds(self.seconds)}",
            "bold",
        )

    def _them(self) -> Text:
        if self.plain is None:
            return Text(f"one plain call: {self.problem}", "yellow")
        spent = self.plain.prompt_tokens + self.plain.completion_tokens
        return Text(
            f"one plain call: {self.their_hits} of {len(self.questions)} hit; "
            f"{count(spent, 'token')}, {seconds(self.plain.seconds)}; "
            f"{self.plain.shown:.0%} of the documents fitted",
            "bold",
        )


def _marked(hit: bool, text: str) -> Text:
    return Text.assemble(("✓ ", "green") if hit else ("✗ ", "red"), text or "–")
