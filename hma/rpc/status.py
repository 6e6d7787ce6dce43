"""gRPC statuses to and from the error tree: the one table.

Needs grpcio, protobuf and googleapis-common-protos only, so that clients can use
it. `to_status` is for servers (through `hma.rpc.interceptor`), `from_rpc_error`
for clients. The richer half travels as google.rpc details: ErrorInfo always (its
domain is "hma"), BadRequest, RetryInfo and QuotaFailure where they fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from hma import errors
from hma.v1 import common_pb2

DOMAIN = "hma"
DETAILS_KEY = "grpc-status-details-bin"
# HTTP/2 peers refuse trailers above 8 KiB, and with them the whole status.
MAX_MESSAGE = 1000
MAX_DETAIL_BYTES = 4000

Code = grpc.StatusCode

CODES: dict[type[errors.HmaError], grpc.StatusCode] = {
    errors.InvalidRequest: Code.INVALID_ARGUMENT,
    errors.NotFound: Code.NOT_FOUND,
    errors.AlreadyExists: Code.ALREADY_EXISTS,
    errors.PreconditionFailed: Code.FAILED_PRECONDITION,
    errors.Overloaded: Code.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: Code.RESOURCE_EXHAUSTED,
    errors.Unauthenticated: Code.UNAUTHENTICATED,
    errors.PermissionDenied: Code.PERMISSION_DENIED,
    errors.Unavailable: Code.UNAVAILABLE,
    errors.DeadlinePassed: Code.DEADLINE_EXCEEDED,
    errors.Fenced: Code.ABORTED,
    errors.SettingsError: Code.INTERNAL,
    errors.CallFailed: Code.INTERNAL,
    errors.RetryableError: Code.UNAVAILABLE,
    errors.HmaError: Code.INTERNAL,
}

CALL_CODES: dict[common_pb2.FailureClass.ValueType, grpc.StatusCode] = {
    common_pb2.FAILURE_CLASS_TRANSIENT: Code.UNAVAILABLE,
    common_pb2.FAILURE_CLASS_RATE_LIMITED: Code.RESOURCE_EXHAUSTED,
    common_pb2.FAILURE_CLASS_TIMEOUT: Code.DEADLINE_EXCEEDED,
    common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW: Code.FAILED_PRECONDITION,
    common_pb2.FAILURE_CLASS_REFUSED: Code.FAILED_PRECONDITION,
    # The inference server's credentials are wrong, not those of the caller.
    common_pb2.FAILURE_CLASS_AUTH: Code.FAILED_PRECONDITION,
    common_pb2.FAILURE_CLASS_BUDGET: Code.RESOURCE_EXHAUSTED,
    common_pb2.FAILURE_CLASS_CANCELLED: Code.CANCELLED,
}

_BY_CODE: dict[grpc.StatusCode, type[errors.HmaError]] = {
    Code.INVALID_ARGUMENT: errors.InvalidRequest,
    Code.OUT_OF_RANGE: errors.InvalidRequest,
    Code.NOT_FOUND: errors.NotFound,
    Code.ALREADY_EXISTS: errors.AlreadyExists,
    Code.FAILED_PRECONDITION: errors.PreconditionFailed,
    Code.RESOURCE_EXHAUSTED: errors.Overloaded,
    Code.UNAUTHENTICATED: errors.Unauthenticated,
    Code.PERMISSION_DENIED: errors.PermissionDenied,
    Code.UNAVAILABLE: errors.Unavailable,
    Code.DEADLINE_EXCEEDED: errors.DeadlinePassed,
}


def code_of(error: errors.HmaError) -> grpc.StatusCode:
    """The status code of an error; a subclass has that of its nearest ancestor."""
    if isinstance(error, errors.CallFailed):
        return CALL_CODES.get(error.failure_class, Code.INTERNAL)
    return CODES[_kind(error)]


def to_status(error: errors.HmaError) -> status_pb2.Status:
    """The google.rpc.Status of an error, details included, small enough for trailers."""
    number: int = code_of(error).value[0]
    status = status_pb2.Status(code=number, message=_clip(error.message))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    info.metadata["kind"] = _kind(error).__name__
    details: list[Message] = [info]
    if isinstance(error, errors.CallFailed):
        info.metadata["failure_class"] = common_pb2.FailureClass.Name(error.failure_class)
    if isinstance(error, errors.InvalidRequest):
        details.append(_bad_request(error.violations))
    if isinstance(error, errors.QuotaExceeded):
        failure = error_details_pb2.QuotaFailure()
        failure.violations.add(subject=error.subject, description=_clip(error.message))
        details.append(failure)
    if isinstance(error, errors.RetryableError) and error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(max(0.0, error.retry_after) * 1e9))
        details.append(retry)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def from_rpc_error(error: grpc.RpcError) -> errors.HmaError:
    """The typed error that a failed RPC stands for.

    Works with synchronous and asyncio calls. Without HMA's details (a proxy
    answered, or the connection broke) the code alone decides.
    """
    call: Any = error
    code = call.code() if hasattr(call, "code") else None
    message = (call.details() if hasattr(call, "details") else None) or ""
    status = _status_of(call)
    if status is not None:
        found = _from_details(status)
        if found is not None:
            return found
        message = status.message or message
    return _from_code(code or Code.UNKNOWN, message)


def _from_details(status: status_pb2.Status) -> errors.HmaError | None:
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    quota = error_details_pb2.QuotaFailure()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        for target in (info, bad, quota, retry):
            detail.Unpack(target)
    if info.domain != DOMAIN:
        return None
    message = status.message
    after = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    name = info.metadata.get("failure_class", "")
    failure_class = (
        common_pb2.FailureClass.Value(name)
        if name in common_pb2.FailureClass.keys()  # noqa: SIM118 - an enum wrapper, no mapping
        else common_pb2.FAILURE_CLASS_INTERNAL
    )
    violations = [errors.FieldViolation(v.field, v.description) for v in bad.field_violations]
    subject = quota.violations[0].subject if quota.violations else ""
    build: dict[str, Callable[[], errors.HmaError]] = {
        "InvalidRequest": lambda: errors.InvalidRequest(
            violations or [errors.FieldViolation("", message)]
        ),
        "QuotaExceeded": lambda: errors.QuotaExceeded(message, subject=subject, retry_after=after),
        "CallFailed": lambda: errors.CallFailed(message, failure_class, retry_after=after),
    }
    kinds = {kind.__name__: kind for kind in CODES}
    kind = info.metadata.get("kind", "")
    if kind in build:
        found = build[kind]()
        found.reason = info.reason
        return found
    cls = kinds.get(kind)
    if cls is None:
        return None
    if issubclass(cls, errors.RetryableError):
        return cls(message, reason=info.reason, retry_after=after)
    return cls(message, reason=info.reason)


def _from_code(code: grpc.StatusCode, message: str) -> errors.HmaError:
    message = message or f"the call failed: {code.name.replace('_', ' ').lower()}"
    cls = _BY_CODE.get(code)
    if cls is errors.InvalidRequest:
        return errors.InvalidRequest.field("", message)
    if cls is None:
        return errors.HmaError(message, reason=code.name)
    return cls(message)


def _kind(error: errors.HmaError) -> type[errors.HmaError]:
    return next(cls for cls in type(error).__mro__ if cls in CODES)


def _status_of(call: Any) -> status_pb2.Status | None:
    trailers: Iterable[tuple[str, str | bytes]] = (
        (call.trailing_metadata() or ()) if hasattr(call, "trailing_metadata") else ()
    )
    for key, value in trailers:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _bad_request(violations: Iterable[errors.FieldViolation]) -> error_details_pb2.BadRequest:
    bad = error_details_pb2.BadRequest()
    left_out = 0
    for violation in violations:
        entry = error_details_pb2.BadRequest.FieldViolation(
            field=_clip(violation.field, 300), description=_clip(violation.description, 300)
        )
        if bad.ByteSize() + entry.ByteSize() > MAX_DETAIL_BYTES:
            left_out += 1
        else:
            bad.field_violations.append(entry)
    if left_out:
        bad.field_violations.add(field="", description=f"and {left_out} more")
    return bad


def _clip(text: str, limit: int = MAX_MESSAGE) -> str:
    """At most `limit` bytes of UTF-8, so that percent-encoding stays within bounds."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text
    return encoded[:limit].decode("utf-8", "ignore") + " …"
