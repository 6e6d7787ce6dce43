"""What the driver's streams have seen and the log does not hold yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hma.v1 import analyst_pb2, attempt_pb2, common_pb2
from services.meta_agent.job.state import AttemptKey


@dataclass(frozen=True, slots=True)
class Intended:
    """A service wants to make a call."""

    key: AttemptKey
    intent: attempt_pb2.CallIntent


@dataclass(frozen=True, slots=True)
class Planned:
    """The Analyst closed a piece of the plan."""

    key: AttemptKey
    fragment: analyst_pb2.PlanFragment


@dataclass(frozen=True, slots=True)
class Ended:
    """A service gave its last word."""

    key: AttemptKey
    result: attempt_pb2.AttemptResult


@dataclass(frozen=True, slots=True)
class Refused:
    """A service turned an attempt away, or was not there: nothing was spent.

    Attributes:
        retry_after: Seconds it asked to wait; 0 when it named none.
    """

    key: AttemptKey
    failure_class: common_pb2.FailureClass.ValueType
    message: str
    retry_after: float = 0.0


Observed = Intended | Planned | Ended | Refused


@dataclass(frozen=True, slots=True)
class Broken:
    """A stream that ended without a result. Its service may still report.

    Attributes:
        since: When it broke, by database time.
    """

    since: float
    reason: str


@dataclass(frozen=True, slots=True)
class RouteState:
    """Whether a route can be called.

    Attributes:
        detail: Why not, or why only for few attempts, in words for users.
        slots: How many more Worker attempts may be started on it.
        trial: It has failed and may be tried: by one attempt, of any role, that may call it.
    """

    ready: bool
    detail: str = ""
    slots: int = 1_000_000
    trial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Everything a decision may use besides the log and the time.

    Attributes:
        inbox: Each is handled by exactly one decision, in this order.
        broken: Streams that broke, until the log knows what became of them.
        slots: How many more Worker attempts this replica may have open.
        routes: By name. A route that is missing here is taken to be ready.
        quota_most: Tokens that the tenant's limits let a job hold at once, as far as known.
    """

    inbox: tuple[Observed, ...] = ()
    broken: Mapping[AttemptKey, Broken] = field(default_factory=lambda: MappingProxyType({}))
    slots: int = 1_000_000
    routes: Mapping[str, RouteState] = field(default_factory=lambda: MappingProxyType({}))
    quota_most: float = math.inf
