"""What must be true after the inputs: everything lives, works, and has nothing to hide."""

from __future__ import annotations

import re

import hma
from hma.errors import NotFound
from tests.chaos.fleet import HOST, Fleet

# A traceback, or the line that goes with an error id.
_DEFECTS = re.compile(r"Traceback|unexpected error|\[critical\]")


async def faults(fleet: Fleet, jobs: list[str]) -> list[str]:
    """What is wrong; nothing when all is well.

    Args:
        fleet: After the inputs.
        jobs: Ids of jobs that must have ended or end now.
    """
    found = [f"{part.name} has ended" for part in fleet.parts.values() if part.code() is not None]
    for log in sorted(fleet.logs.glob("*.log")):
        text = log.read_text(errors="replace")
        if match := _DEFECTS.search(text):
            found.append(f"{log.name}: …{text[max(0, match.start() - 300) : match.end() + 2000]}")
    async with hma.AsyncClient(f"{HOST}:{fleet.port}") as client:
        job = await client.run(
            "When was it built?", documents=[("a.md", "It was built in 1764.")], budget=5000
        )
        if not job.answer.text:
            found.append(f"a job after the inputs has no answer: {job.state_reason}")
        for job_id in jobs:
            try:
                await client.wait(job_id, timeout=60)
            except NotFound:
                continue  # purged by one of the inputs
    return found
