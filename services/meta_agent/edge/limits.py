"""What the public API accepts at most. Every limit is a setting."""

from __future__ import annotations

from dataclasses import dataclass

from hma.settings import Bytes, Seconds, at_least, setting

MAX_NAME_CHARS = 255
MAX_REQUEST_ID_CHARS = 128
MAX_REASON_CHARS = 1_000
MAX_ROUNDS = 8
MAX_ATTEMPTS = 10
MAX_PRIORITY = 100
MAX_PAGE_SIZE = 500
DEFAULT_PAGE_SIZE = 50
MAX_USAGE_PAGE_SIZE = 1_000
DEFAULT_USAGE_PAGE_SIZE = 100


def _budget_limit(value: int) -> str | None:
    # Job-level token counts are int32 in the protos; a tenth of its range keeps every sum inside.
    return None if 1 <= value <= 200_000_000 else f"expected 1 to 200000000, got {value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a request. The defaults are those that the protos name."""

    max_description_chars: int = setting(
        "HMA_MAX_DESCRIPTION_CHARS",
        100_000,
        "Longest task description, in characters",
        check=at_least(1),
    )
    max_document_bytes: Bytes = setting(
        "HMA_MAX_DOCUMENT_BYTES",
        Bytes(10 << 20),
        "Largest document, in bytes of UTF-8",
        check=at_least(1),
    )
    max_job_bytes: Bytes = setting(
        "HMA_MAX_JOB_BYTES",
        Bytes(32 << 20),
        "Largest job: all documents and the description together, in bytes of UTF-8",
        check=at_least(1),
    )
    max_documents: int = setting(
        "HMA_MAX_DOCUMENTS", 1_000, "Most documents of a job", check=at_least(1)
    )
    max_plan_tasks: int = setting(
        "HMA_MAX_PLAN_TASKS", 500, "Most tasks in a plan that a client sends", check=at_least(1)
    )
    max_budget_tokens: int = setting(
        "HMA_MAX_BUDGET_TOKENS",
        10_000_000,
        "Largest token budget of a job, top-ups included",
        check=_budget_limit,
    )
    default_deadline: Seconds = setting(
        "HMA_DEFAULT_DEADLINE",
        Seconds(600),
        "Deadline of a job that names none",
        check=at_least(1),
    )
    max_deadline: Seconds = setting(
        "HMA_MAX_DEADLINE", Seconds(86_400), "Longest deadline of a job", check=at_least(1)
    )
    max_wait: Seconds = setting(
        "HMA_MAX_WAIT",
        Seconds(600),
        "Longest time that CreateJob and GetJob wait for a job to end",
        check=at_least(0),
    )
    max_queued_jobs: int = setting(
        "HMA_MAX_QUEUED_JOBS",
        10_000,
        "Most accepted jobs that wait for a driver, over all replicas; then CreateJob is refused",
        check=at_least(1),
    )
    max_inflight_bytes: Bytes = setting(
        "HMA_MAX_INFLIGHT_BYTES",
        Bytes(128 << 20),
        "Most bytes of CreateJob requests that one replica works on at once; then CreateJob is "
        "refused",
        check=at_least(1),
    )
    watch_stall: Seconds = setting(
        "HMA_WATCH_STALL",
        Seconds(300),
        "A client that watches a job and takes nothing for so long loses its stream; it may "
        "watch again from where it was",
        check=at_least(0.1),
    )
    max_watches: int = setting(
        "HMA_MAX_WATCHES",
        1_000,
        "Most WatchJob streams of one replica at once; then WatchJob is refused",
        check=at_least(1),
    )
