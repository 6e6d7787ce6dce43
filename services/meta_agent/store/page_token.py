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
    """Makes the token of the page of jobs that follows a job."""
    return pack([micros_of(create_time), job_id], filters)


def read_token(token: str, filters: Sequence[object]) -> tuple[datetime, str]:
    """Reads a token of a page of jobs.

    Raises:
        InvalidRequest: It is none, or was made for another list.
    """
    values = unpack(token, filters)
    match values:
        case [int(micros), str(job_id)] if "\0" not in job_id:
            return moment_of(micros), job_id
    raise _invalid("was made for another list; start with an empty one")


def pack(values: Sequence[int | str], filters: Sequence[object]) -> str:
    """Makes a token of where a page ended.

    Args:
        values: The place.
        filters: What the list is of; the token is good for no other.
    """
    text = json.dumps([*values, _digest(filters)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def unpack(token: str, filters: Sequence[object]) -> list[object]:
    """The place that a token names; its values may be forged.

    Raises:
        InvalidRequest: It is no token, or was made for another list.
    """
    if len(token) > _MAX_CHARS:
        raise _invalid("not a page token of this list; start with an empty one")
    values: list[object]
    try:
        text = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        *values, digest = json.loads(text)
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise _invalid("not a page token of this list; start with an empty one") from None
    if digest != _digest(filters):
        raise _invalid("was made for another list; start with an empty one")
    return values


def micros_of(moment: datetime) -> int:
    """Whole microseconds since 1970, as PostgreSQL keeps time: a float would skip rows."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment_of(micros: int) -> datetime:
    """The moment that is so many microseconds after 1970.

    Raises:
        InvalidRequest: There is no such moment in a calendar.
    """
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise _invalid("not a page token of this list; start with an empty one") from None


def _digest(filters: Sequence[object]) -> str:
    return hashlib.sha256(repr(tuple(filters)).encode()).hexdigest()[:12]


def _invalid(description: str) -> InvalidRequest:
    return InvalidRequest.field("page_token", description)
