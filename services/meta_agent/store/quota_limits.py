"""Limits of tenants: their names, the windows they hold in, and the presets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hma.errors import InvalidRequest
from hma.v1 import admin_pb2
from services.meta_agent.store.quota_buckets import DAY, MINUTE, SECOND

Limits = Mapping[str, float]
"""Limits by their names in `QuotaLimits`; what is missing is not limited."""

NO_LIMITS: Limits = MappingProxyType({})

MOST = 10**15
"""No limit may be larger: sums of that many still fit the database's integers."""


@dataclass(frozen=True, slots=True)
class Period:
    """How far back a window reaches.

    Attributes:
        name: "minute", "hour", "day" or "month".
        width: Of the buckets that it is summed from, in seconds. One that has begun
            before the window counts whole.
        span: Seconds; 0: since the calendar month began, UTC.
    """

    name: str
    width: int
    span: int


PERIODS = (
    Period("minute", SECOND, 60),
    Period("hour", MINUTE, 3600),
    Period("day", MINUTE, 86_400),
    Period("month", DAY, 0),
)


@dataclass(frozen=True, slots=True)
class Window:
    """A limit over time.

    Attributes:
        name: The limit's.
        what: "requests", "tokens" or "cost".
        period: How far back.
    """

    name: str
    what: str
    period: Period


WINDOWS: Mapping[str, Window] = MappingProxyType(
    {
        f"{what}_per_{period.name}": Window(f"{what}_per_{period.name}", what, period)
        for what, names in (
            ("requests", ("minute", "hour", "day")),
            ("tokens", ("minute", "hour", "day", "month")),
            ("cost", ("month",)),
        )
        for period in PERIODS
        if period.name in names
    }
)

NAMES = tuple(field.name for field in admin_pb2.QuotaLimits.DESCRIPTOR.fields)

PRESETS: Mapping[str, Limits] = MappingProxyType(
    {
        "unlimited": NO_LIMITS,
        "small": MappingProxyType(
            {"requests_per_minute": 60, "concurrent_jobs": 10, "concurrent_tasks": 10}
        ),
        "large": MappingProxyType(
            {"requests_per_minute": 200, "concurrent_jobs": 100, "concurrent_tasks": 50}
        ),
    }
)
"""What SetQuota knows by name."""


def draws_tokens(limits: Limits) -> bool:
    """Whether jobs may only spend what they have drawn."""
    return any(name in limits for name in WINDOWS if WINDOWS[name].what != "requests")


def changed(now: Limits, request: admin_pb2.SetQuotaRequest) -> Limits:
    """The limits after a SetQuota.

    Args:
        now: What is set.
        request: What is to be changed.

    Raises:
        InvalidRequest: It names what there is not, or a limit that is none.
    """
    if request.preset and request.preset not in PRESETS:
        known = ", ".join(f'"{name}"' for name in PRESETS)
        raise InvalidRequest.field("preset", f"there is none of that name; there are: {known}")
    limits = dict(PRESETS[request.preset] if request.preset else now)
    for index, name in enumerate(request.update):
        if name not in NAMES:
            words = f"no such limit; there are: {', '.join(NAMES)}"
            raise InvalidRequest.field(f"update[{index}]", words)
    asked = request.limits
    for name in request.update or [name for name in NAMES if getattr(asked, name)]:
        value = getattr(asked, name)
        if not 0 <= value <= MOST:
            raise InvalidRequest.field(f"limits.{name}", f"must be 0 (none) to {MOST:,}")
        limits.pop(name, None)
        if value:
            limits[name] = value
    return limits


def to_message(limits: Limits) -> admin_pb2.QuotaLimits:
    """The limits as a message."""
    message = admin_pb2.QuotaLimits()
    for name, value in limits.items():
        setattr(message, name, value if name == "cost_per_month" else int(value))
    return message


def to_json(limits: Limits) -> str:
    """The limits as they are stored."""
    return json.dumps(dict(limits), sort_keys=True)


def from_json(text: str | None, default: Limits) -> Limits:
    """What a tenant's row says; the default when it says nothing."""
    if text is None:
        return default
    return {name: value for name, value in json.loads(text).items() if name in NAMES and value}
