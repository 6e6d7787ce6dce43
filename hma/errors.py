"""Every error that HMA raises on purpose, as one tree.

    HmaError                    something HMA itself has to say
    ├── InvalidRequest          the request is at fault; names each field
    ├── NotFound                no such job, document, task (or not the caller's)
    ├── AlreadyExists           the same request_id with another request
    ├── PreconditionFailed      right request, wrong moment (a job that has ended)
    ├── Overloaded              full now; says when to come back
    ├── QuotaExceeded           a limit of the tenant; says which and until when
    ├── Unauthenticated         no or bad credentials
    ├── PermissionDenied        good credentials, not allowed
    ├── Unavailable             a part that is needed is away; retry
    ├── DeadlinePassed          the time ran out
    ├── Fenced                  another driver owns the job (internal)
    ├── SettingsError           the process is configured wrongly
    └── CallFailed              an LLM call failed; carries its FailureClass

Domain code raises these and nothing else; `hma.rpc.errors` is the one place that
turns them into a gRPC status. Messages are for users: they say what is wrong and
what to do, and never carry the text of a foreign exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hma.v1 import common_pb2

FailureClass = common_pb2.FailureClass


class HmaError(Exception):
    """Base of all errors that HMA raises on purpose.

    Attributes:
        message: One sentence for a user.
        reason: Machine-readable cause, UPPER_SNAKE_CASE; `ErrorInfo.reason`.
    """

    reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing wrong with one field.

    Attributes:
        field: Path from the request's root, for example `job.budget.max_tokens`.
        description: What is wrong and what is allowed.
    """

    field: str
    description: str


class InvalidRequest(HmaError):
    """The request is at fault.

    Attributes:
        violations: At least one; all that were found, not only the first.
    """

    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)

    @classmethod
    def field(cls, field: str, description: str) -> InvalidRequest:
        """An error about a single field."""
        return cls([FieldViolation(field, description)])


class NotFound(HmaError):
    """There is no such thing, or it is not the caller's."""

    reason = "NOT_FOUND"


class AlreadyExists(HmaError):
    """The request_id was used for a different request."""

    reason = "REQUEST_ID_REUSED"


class PreconditionFailed(HmaError):
    """A right request at the wrong moment."""

    reason = "PRECONDITION_FAILED"


class RetryableError(HmaError):
    """Worth trying again.

    Attributes:
        retry_after: Seconds to wait first; None when not known.
    """

    def __init__(
        self, message: str, *, reason: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class Overloaded(RetryableError):
    """Full now. Nothing was started and nothing was spent."""

    reason = "OVERLOADED"


class QuotaExceeded(RetryableError):
    """A limit of the caller's tenant is reached.

    Attributes:
        subject: Which limit, for example `tenant:acme/tokens_per_minute`.
        limit: The limit; None when not known.
        remaining: What is left of it; None when not known.
    """

    reason = "QUOTA_EXCEEDED"

    def __init__(
        self,
        message: str,
        *,
        subject: str,
        retry_after: float | None = None,
        limit: float | None = None,
        remaining: float | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.subject = subject
        self.limit = limit
        self.remaining = remaining


class Unauthenticated(HmaError):
    """Credentials are missing or wrong."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(HmaError):
    """The caller may not do this."""

    reason = "PERMISSION_DENIED"


class Unavailable(RetryableError):
    """A part that is needed is away."""

    reason = "UNAVAILABLE"


class DeadlinePassed(HmaError):
    """The time ran out."""

    reason = "DEADLINE_PASSED"


class Fenced(HmaError):
    """Another driver owns the job, or the job is sealed: stop, decide nothing more."""

    reason = "FENCED"


class SettingsError(HmaError):
    """The process is configured wrongly; the message lists every fault."""

    reason = "SETTINGS"


class CallFailed(RetryableError):
    """An LLM call failed.

    Attributes:
        failure_class: Decides retry, fallback, skip or fail.
    """

    reason = "CALL_FAILED"

    def __init__(
        self,
        message: str,
        failure_class: FailureClass.ValueType,
        *,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.failure_class = failure_class
