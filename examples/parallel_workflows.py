"""Several jobs at once, and how far they ran side by side. Needs a stack: `make up`.

    python examples/parallel_workflows.py [README.md …]

The server is HMA_SERVER, or localhost:8080.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from google.protobuf.timestamp_pb2 import Timestamp

import hma

QUESTIONS = (
    "Which port does the public gateway listen on?",
    "Under which licence is the project published?",
    "Which database does it use?",
)


async def main(documents: list[str]) -> int:
    async with hma.AsyncClient() as client, asyncio.TaskGroup() as group:
        running = [
            group.create_task(client.run(question, documents=documents, budget=2000, deadline="2m"))
            for question in QUESTIONS
        ]
    jobs = [task.result() for task in running]
    for question, job in zip(QUESTIONS, jobs, strict=True):
        print(f"{question}\n  {job.answer.text.strip()}\n  {job.ledger.spent_tokens} tokens")

    spans = [(seconds(job.create_time), seconds(job.end_time)) for job in jobs]
    work = sum(end - start for start, end in spans)
    wall = max(end for _, end in spans) - min(start for start, _ in spans)
    pairs = [
        max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / max(1e-9, min(a[1] - a[0], b[1] - b[0]))
        for a, b in itertools.combinations(spans, 2)
    ]
    print(f"\n{work:.1f} s of work in {wall:.1f} s")
    print(f"pairwise overlap: {100 * sum(pairs) / len(pairs):.0f} %")
    return 0 if all(job.HasField("answer") for job in jobs) else 1


def seconds(time: Timestamp) -> float:
    return time.ToNanoseconds() / 1e9


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:] or ["README.md"])))
