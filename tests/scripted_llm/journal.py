"""What a scripted server has counted, in a file: it outlives the server, however that dies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.scripted_llm.call import Call


@dataclass(frozen=True)
class Counted:
    """One call in the journal.

    Attributes:
        job_id: Whose it is: the `x-hma-job` header.
        name: Task, attempt and number of the call: the `x-hma-call` header.
        tokens: What the server counted for it.
    """

    job_id: str
    name: str
    tokens: int


class Journal:
    """Appends a line whenever a call has cost more; the kernel keeps what was written."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._process = os.getpid()

    def note(self, call: Call) -> None:
        """For `ScriptedLLM(on_count=…)`."""
        job_id, name = (call.headers.get(f"x-hma-{key}", "-") for key in ("job", "call"))
        line = f"{self._process}.{call.number} {job_id} {name} {call.total_tokens}\n"
        os.write(self._file, line.encode())


def read_journal(path: Path) -> list[Counted]:
    """Every call that was ever counted, each with its last figure."""
    latest: dict[str, Counted] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        key, job_id, name, tokens = line.split(" ")
        latest[key] = Counted(job_id, name, int(tokens))
    return list(latest.values())
