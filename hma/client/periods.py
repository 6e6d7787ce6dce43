"""Periods of time as people name them, and the question about usage. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from hma.errors import InvalidRequest
from hma.settings import Seconds, parse
from hma.v1 import meta_agent_pb2

MomentLike = datetime | date | timedelta | str
"""A time; a day (its start, UTC); or how long ago: a timedelta, "90m", "7d"."""

UsageBy = Literal["tenant", "route", "day"]
"""What usage is summed by."""

GROUPINGS: dict[UsageBy, meta_agent_pb2.UsageGrouping.ValueType] = {
    "tenant": meta_agent_pb2.USAGE_GROUPING_TENANT,
    "route": meta_agent_pb2.USAGE_GROUPING_ROUTE,
    "day": meta_agent_pb2.USAGE_GROUPING_DAY,
}


def moment(value: MomentLike, field: str, now: datetime | None = None) -> datetime:
    """`value` as a time with zone; one without a zone is read as UTC.

    Args:
        value: A time, a day, or how long ago, also as text: "2026-11-01",
            "2026-11-01T08:00+01:00", "7d".
        field: What it is, for the error.
        now: What "ago" is counted from; the clock of this machine when None.

    Raises:
        InvalidRequest: It is none of these.
    """
    if isinstance(value, str):
        value = _parsed(value.strip(), field)
    if isinstance(value, timedelta):
        try:
            return (now or datetime.now(UTC)) - value
        except OverflowError:
            raise InvalidRequest.field(field, "lies too long ago") from None
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def get_usage(
    by: Iterable[UsageBy] = (),
    since: MomentLike | None = None,
    until: MomentLike | None = None,
) -> meta_agent_pb2.GetUsageRequest:
    """The question about usage; `hma.Client.usage` says what each argument means.

    Raises:
        InvalidRequest: An argument cannot be put into a request.
    """
    request = meta_agent_pb2.GetUsageRequest(page_size=1_000)
    for name in by:
        if name not in GROUPINGS:
            raise InvalidRequest.field("by", f"expected tenant, route or day, got {name!r}")
        request.by.append(GROUPINGS[name])
    now = datetime.now(UTC)
    if since is not None:
        request.start_time.FromDatetime(moment(since, "since", now))
    if until is not None:
        request.end_time.FromDatetime(moment(until, "until", now))
    return request


def _parsed(text: str, field: str) -> datetime | timedelta:
    try:
        return timedelta(seconds=parse(Seconds, text))
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest.field(
            field, f'expected a time such as "7d" (ago) or "2026-11-01", got {text!r}'
        ) from None
