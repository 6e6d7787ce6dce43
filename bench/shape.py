"""How far the prediction was off from which HMA decides: one agent, or a team.

python -m bench.shape            # about a minute
python -m bench.shape --quick    # a few seconds, rough figures
python -m bench.shape --data DIRECTORY   # where reading.json and gsm8k.json are

A mix of jobs: reading comprehension over one to all documents of a text and word problems
without any, from files that are not part of this repository; where they are missing, the
texts are made up. All services, a scripted model server that answers with the right words.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.stage.answers import PLAN, asked_ids, words
from bench.stage.running import Whole, database_server, running
from bench.stage.tables import percent, quantile, show
from hma.v1 import job_pb2
from tests.scripted_llm import Call, Reply, say

_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
_TOKEN_DELAY = 0.02
_CLOSE = 25.0
"""Percent that a prediction may be off and still be called close."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A job of the mix.

    Attributes:
        kind: What it is an example of.
        questions: What it asks.
        documents: What it is to read.
    """

    kind: str
    questions: Sequence[str]
    documents: Sequence[tuple[str, str]]

    @property
    def text(self) -> str:
        """The request in words."""
        if len(self.questions) == 1:
            return self.questions[0]
        listed = "\n".join(f"{n}. {text}" for n, text in enumerate(self.questions, 1))
        return f"Answer these questions:\n{listed}"


@dataclass(frozen=True, slots=True)
class Error:
    """By how much one prediction was off, in percent of the prediction; signed."""

    kind: str
    shape: str
    tokens: float
    seconds: float
    samples: int


class RightWords:
    """Answers with the right words where they are known, and others of their length."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known

    def __call__(self, call: Call) -> Reply:
        """The reply to a call."""
        dice = random.Random(call.prompt[-300:])
        if call.purpose == "PLAN":
            return Reply(json=PLAN)
        if call.purpose == "REDUCE":
            return say(words(dice, 60, 200))
        ids = asked_ids(call)
        if not ids:
            question = call.prompt.rpartition("Question:")[2].partition("\n")[0].strip()
            return say(f" {self._known.get(question) or words(dice, 1, 5)}\n")
        lines = call.prompt.rpartition("Items:\n")[2].splitlines()
        asked = dict(line.split(": ", 1) for line in lines if ": " in line)
        items = [
            {
                "id": name,
                "answer": self._known.get(asked.get(name, ""), "") or words(dice, 1, 5),
                "evidence": words(dice, 5, 25),
            }
            for name in ids
        ]
        return Reply(json={"items": items, "notes": ""})


def load(directory: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]], bool]:
    """Texts with questions, word problems, and whether they are real."""
    reading, problems = directory / "reading.json", directory / "gsm8k.json"
    if not (reading.exists() and problems.exists()):
        return *_made_up(), False
    texts = json.loads(reading.read_text(encoding="utf-8"))["jobs"]
    return texts, json.loads(problems.read_text(encoding="utf-8"))["questions"], True


def _made_up() -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    dice = random.Random(1)
    texts = [
        {
            "documents": [words(dice, 80, 160) + "." for _ in range(5)],
            "questions": [
                {"question": f"What is {words(dice, 4, 9)}?", "answers": [words(dice, 1, 5)]}
                for _ in range(25)
            ],
        }
        for _ in range(24)
    ]
    problems = [
        {"question": f"How many {words(dice, 30, 60)}?", "answer": str(dice.randint(1, 999))}
        for _ in range(100)
    ]
    return texts, problems


def mix(
    texts: Sequence[Mapping[str, Any]], problems: Sequence[Mapping[str, str]], count: int, seed: int
) -> list[Asked]:
    """So many jobs of each of four kinds."""
    dice = random.Random(seed)
    jobs = []
    for _ in range(count):
        text = dice.choice(texts)
        documents = [(f"d{n}.md", each) for n, each in enumerate(text["documents"], 1)]
        asked = [one["question"] for one in text["questions"]]
        jobs.append(Asked("one question", dice.sample(asked, 1), documents))
        jobs.append(
            Asked("2 to 8 questions", dice.sample(asked, dice.randint(2, 8)), documents[:2])
        )
        many = min(len(asked), dice.randint(9, 25))
        jobs.append(Asked("9 to 25 questions", dice.sample(asked, many), documents))
        some = [one["question"] for one in dice.sample(list(problems), dice.randint(2, 10))]
        jobs.append(Asked("word problems", some, ()))
    return jobs


async def errors_of(whole: Whole, jobs: Sequence[Asked]) -> list[Error]:
    """Runs the jobs, eight at once, and reads from their logs how far off they were."""
    turn = asyncio.Semaphore(8)

    async def one(asked: Asked) -> Error | None:
        async with turn:
            job = await whole.client.run(
                asked.text, documents=asked.documents, budget=200_000, deadline=120
            )
        events = await whole.events(job.job_id)
        decided = next(e.shape_decided for e in events if e.HasField("shape_decided"))
        outcome = events[-1].job_finished.shape_outcome
        if not outcome.predicted_tokens:
            return None
        predicted = outcome.predicted_time.ToMicroseconds() / 1e6
        actual = outcome.actual_time.ToMicroseconds() / 1e6
        return Error(
            kind=asked.kind,
            shape=job_pb2.JobShape.Name(outcome.shape).removeprefix("JOB_SHAPE_").lower(),
            tokens=outcome.error_percent,
            seconds=100 * (actual - predicted) / predicted if predicted else 0.0,
            samples=decided.samples,
        )

    found = await asyncio.gather(*(one(asked) for asked in jobs))
    return [error for error in found if error is not None]


def table(title: str, errors: Sequence[Error]) -> None:
    """Prints errors by kind of job."""
    by_kind: dict[str, list[Error]] = defaultdict(list)
    for error in errors:
        by_kind[error.kind].append(error)
        by_kind["all"].append(error)
    rows = []
    for kind in sorted(by_kind, key=lambda name: (name == "all", name)):
        some = by_kind[kind]
        rows.append(
            (
                kind,
                len(some),
                percent(sum(e.shape == "team" for e in some), len(some), 0),
                percent(sum(e.samples > 0 for e in some), len(some), 0),
                *_figures([e.tokens for e in some]),
                *_figures([e.seconds for e in some]),
            )
        )
    head = ("", "jobs", "team", "measured", "tokens", "|p50|", "|p90|", "close")
    show(title, (*head, "time", "|p50|", "|p90|", "close"), rows)


def _figures(errors: Sequence[float]) -> tuple[str, str, str, str]:
    off = [abs(error) for error in errors]
    return (
        f"{quantile(errors, 0.5):+.0f} %",
        f"{quantile(off, 0.5):.0f} %",
        f"{quantile(off, 0.9):.0f} %",
        percent(sum(each <= _CLOSE for each in off), len(off), 0),
    )


async def run(server: str, directory: Path, *, quick: bool) -> None:
    """Measures with priors only, lets history learn, measures again, and prints."""
    texts, problems, real = load(directory)
    known = {one["question"]: one["answers"][0] for text in texts for one in text["questions"]}
    known |= {one["question"]: one["answer"] for one in problems}
    source = "real questions" if real else f"made-up questions ({directory} has none)"
    print(f"{source}; {1 / _TOKEN_DELAY:.0f} tokens/s a call")
    count = 2 if quick else 6
    for profile in ("smollm2", "standard"):
        async with running(
            server, RightWords(known), profile=profile, token_delay=_TOKEN_DELAY, places=64
        ) as whole:
            first = await errors_of(whole, mix(texts, problems, count, seed=1))
            await whole.learn()
            second = await errors_of(whole, mix(texts, problems, count, seed=2))
        table(f"{profile}: predicted from the profile alone", first)
        table(f"{profile}: predicted after {len(first)} other jobs", second)
    print(
        "\n  tokens, time: median error, 100 * (actual - predicted) / predicted; |p50|, |p90|: of"
    )
    print(f"  its size; close: jobs within {_CLOSE:.0f} %. measured: jobs whose prediction came")
    print("  from history. team: jobs that were given to one.")


def main() -> None:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer jobs")
    parser.add_argument("--data", type=Path, default=_DATA, help="folder of the questions")
    given = parser.parse_args()
    with database_server() as server:
        asyncio.run(run(server, given.data, quick=given.quick))


if __name__ == "__main__":
    main()
