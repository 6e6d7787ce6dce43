"""Ids that sort by the time they were made."""

from __future__ import annotations

import re
import secrets
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_JOB_ID = re.compile(r"job-[0-7][0-9A-HJKMNP-TV-Z]{25}")


def new_job_id() -> str:
    """A new job's id: "job-" and a ULID.

    26 characters of Crockford base32: 48 bits of Unix milliseconds, then 80 random
    bits (https://github.com/ulid/spec). Ids made in the same millisecond do not sort.
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "job-" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def is_job_id(text: str) -> bool:
    """Whether `text` has the shape of a job's id."""
    return _JOB_ID.fullmatch(text) is not None


def new_replica_id(name: str) -> str:
    """An id for this run of a replica.

    Never reuse one: a restarted process that took up its old id would make the jobs
    of its former life look driven.

    Args:
        name: What people know it by, such as the host's name.
    """
    return f"{name}-{secrets.token_hex(5)}"


def new_event_id() -> str:
    """An id for an event that no request names."""
    return secrets.token_hex(16)
