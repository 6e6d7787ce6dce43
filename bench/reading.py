"""How well and how dearly the embedded model answers questions: F1 and tokens per question.

python -m bench.reading                       # starts the embedded model server by itself
python -m bench.reading --url http://127.0.0.1:8090/v1   # uses one that runs

The Worker's own code reads, asks, checks and falls back; only the grants are made up (all
that is asked for). F1 is SQuAD's, over words, the best of the right answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import re
import socket
import string
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hma.llm.base import Completion, Prompt
from hma.llm.budgeted import BudgetedLLM
from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.routes import Routes, load_routes
from hma.llm.settings import LlmSettings
from hma.rpc.attempt import Attempt
from hma.rpc.outbox import Outbox
from hma.text.outline import outline
from hma.v1 import attempt_pb2, common_pb2, task_pb2, worker_pb2
from services.worker.execution import Execution
from services.worker.grounding import extract
from services.worker.plain import plain_answer
from services.worker.reading import Library, Source

_DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "reading.json"
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_START_SECONDS = 60
_TASK_SECONDS = 3600

_Job = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of one question.

    Attributes:
        f1: Of the Worker's answer.
        model_f1: Of the model's own words, whether they stood or not.
        extract_f1: Of the words that cost nothing.
        extracted: The Worker answered without the model's words.
    """

    f1: float
    model_f1: float
    extract_f1: float
    extracted: bool


class Paid(Attempt):
    """An attempt whose every call is granted, with nobody to report to."""

    async def ask(self, intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        """Grants all."""
        tokens = intent.prompt_tokens + intent.max_completion_tokens
        return attempt_pb2.Grant(call=intent.call, tokens=tokens)


class Overheard(BudgetedLLM):
    """Remembers what the model said to each call."""

    def __init__(self, llm: OpenAICompatible, routes: Routes, attempt: Attempt) -> None:
        super().__init__(llm, routes, attempt)
        self.said: list[str] = []

    async def complete(self, prompt: Prompt, **options: Any) -> Completion:
        """As its parent."""
        completion = await super().complete(prompt, **options)
        self.said.append(completion.text)
        return completion


class Memory:
    """Serves the documents of one job."""

    def __init__(self, contents: Mapping[str, str]) -> None:
        self._contents = contents

    async def read(self, job_id: str, ref: task_pb2.DocumentRef) -> str:
        """The content of a document."""
        return self._contents[ref.document_id]


def f1(answer: str, right: Sequence[str]) -> float:
    """SQuAD's F1: words in common with the right answer that is nearest."""
    return max(_overlap(_words(answer), _words(one)) for one in right)


def _overlap(given: list[str], wanted: list[str]) -> float:
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def _words(text: str) -> list[str]:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


async def measure(
    job: _Job, questions: int, llm: OpenAICompatible, routes: Routes
) -> tuple[list[Measured], int]:
    """Answers the first questions of a job, one task for all; what came, and the tokens."""
    asked = job["questions"][:questions]
    contents = {f"d{number}": text for number, text in enumerate(job["documents"], 1)}
    start = worker_pb2.ExecuteStart(
        task=task_pb2.Task(
            id="read",
            instruction="Answer the questions.",
            kind=common_pb2.TASK_KIND_ANSWER,
            items=[task_pb2.Item(item_id=one["id"], text=one["question"]) for one in asked],
        ),
        documents=[
            outline(key, job["title"], "text/plain", text) for key, text in contents.items()
        ],
    )
    ref = attempt_pb2.AttemptRef(
        job_id=hashlib.sha256(job["id"].encode()).hexdigest(), epoch=1, task_uid="1.1", attempt=1
    )
    start.attempt.ref.CopyFrom(ref)
    start.attempt.time_left.FromSeconds(_TASK_SECONDS)
    attempt = Paid(start.attempt, Outbox())
    source = await Library(Memory(contents), 0).open(ref.job_id, start.documents)
    model = Overheard(llm, routes, attempt)
    result = await Execution(start, attempt, source, model).run()
    if result.HasField("failure") and not result.task.items:
        raise SystemExit(f"the Worker failed: {result.failure.message}")
    tokens = sum(c.usage.prompt_tokens + c.usage.completion_tokens for c in attempt.calls)
    answers = {answer.item_id: answer for answer in result.task.items}
    # One question a call, in order, unless the profile batches.
    said = model.said if len(model.said) == len(asked) else [""] * len(asked)
    return [
        await _measured(one, answers.get(one["id"]), text, source)
        for one, text in zip(asked, said, strict=True)
    ], tokens


async def _measured(
    question: Mapping[str, Any], answer: task_pb2.ItemAnswer | None, said: str, source: Source
) -> Measured:
    right = question["answers"]
    item = task_pb2.Item(item_id=question["id"], text=question["question"])
    free = await extract(item, source)
    return Measured(
        f1=f1(answer.answer, right) if answer else 0.0,
        model_f1=f1(plain_answer(said), right),
        extract_f1=f1(free.answer, right) if free else 0.0,
        extracted=answer is not None and answer.origin == common_pb2.ORIGIN_EXTRACT,
    )


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[str]:
    """The embedded model server, on a port of its own."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = [sys.executable, "-m", "hma.local.llama", "127.0.0.1", str(port)]
    nowhere = asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(*command, stdout=nowhere, stderr=nowhere)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        async with asyncio.timeout(10):
            await server.wait()


async def ready(llm: OpenAICompatible, routes: Routes) -> None:
    """Waits for the model server."""
    end = time.monotonic() + _START_SECONDS
    while not (state := await llm.readiness(routes.default)).ready:
        if time.monotonic() > end:
            raise SystemExit(state.detail)
        await asyncio.sleep(0.2)


async def run(url: str, jobs: Sequence[_Job], questions: int) -> None:
    """Measures the jobs and prints a table."""
    async with contextlib.AsyncExitStack() as stack:
        url = url or await stack.enter_async_context(embedded())
        settings = LlmSettings(base_url=url, profile="smollm2")
        llm = await stack.enter_async_context(OpenAICompatible(settings))
        routes = load_routes(settings)
        await ready(llm, routes)
        measured: list[Measured] = []
        tokens = 0
        begin = time.monotonic()
        for job in jobs:
            found, spent = await measure(job, questions, llm, routes)
            measured += found
            tokens += spent
            show(job["title"], found, spent)
        show(f"all, {time.monotonic() - begin:.0f} s", measured, tokens)


def show(name: str, found: Sequence[Measured], tokens: int) -> None:
    """Prints one line of the table."""
    count = len(found)
    print(
        f"{name[:28]:<28} {count:>4} questions  "
        f"F1 {sum(m.f1 for m in found) / count:.3f}  "
        f"(the model's own words {sum(m.model_f1 for m in found) / count:.3f}, "
        f"no model at all {sum(m.extract_f1 for m in found) / count:.3f})  "
        f"{tokens / count:>4.0f} tokens/question  "
        f"extracts {sum(m.extracted for m in found) / count:>4.0%}",
        flush=True,
    )


def main() -> None:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="", help="OpenAI root of a server that runs the model")
    parser.add_argument("--data", type=Path, default=_DATA, help="the jobs (reading.json)")
    parser.add_argument("--jobs", type=int, default=3, help="how many jobs (3)")
    parser.add_argument("--skip", type=int, default=0, help="jobs to leave out at the front")
    parser.add_argument("--questions", type=int, default=20, help="questions of each job (20)")
    given = parser.parse_args()
    if not given.data.exists():
        raise SystemExit(
            f"{given.data} is not there: this measurement needs the reading jobs "
            '({"jobs": [{"title", "documents", "questions": [{"id", "question", "answers"}]}]}); '
            "name a file with --data."
        )
    jobs = json.loads(given.data.read_text(encoding="utf-8"))["jobs"]
    chosen = jobs[given.skip : given.skip + given.jobs]
    if not chosen or given.questions < 1:
        raise SystemExit("there is nothing to ask")
    asyncio.run(run(given.url, chosen, given.questions))


if __name__ == "__main__":
    main()
