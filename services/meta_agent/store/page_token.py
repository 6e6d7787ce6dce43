"""Tokens of list pages: where the page before ended, and of which list it was."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hma.errors import InvalidRequest

_MAX_CHARS = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def write_token(create_time: datetime, job_id: str, filters: Sequence[object]) -> str:
    """Makes the token of the page that follows a job."""
    # Whole microseconds, as PostgreSQL keeps them: a float would skip or repeat jobs.
    micros = (create_time - _EPOCH) // timedelta(microseconds=1)
    text = json.dumps([micros, job_id, _digest(filters)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_token(token: str, filters: Sequence[object]) -> tuple[datetime, str]:
    """Reads a token.

    Raises:
        InvalidRequest: It is none, or was made for another list.
    """
    if len(token) > _MAX_CHARS:
        raise _invalid("not a page token of this list; start with an empty one")
    try:
        text = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        micros, job_id, digest = json.loads(text)
        create_time = _EPOCH + timedelta(microseconds=micros)
    except (binascii.Error, ValueError, TypeError, OverflowError):
        raise _invalid("not a page token of this list; start with an empty one") from None
    if digest != _digest(filters) or not isinstance(job_id, str) or "\0" in job_id:
        raise _invalid("was made for another list; start with an empty one")
    return create_time, job_id


def _digest(filters: Sequence[object]) -> str:
    return hashlib.sha256(repr(tuple(filters)).encode()).hexdigest()[:12]


def _invalid(description: str) -> InvalidRequest:
    return InvalidRequest.field("page_token", description)
