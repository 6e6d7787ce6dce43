"""The table of errors, made from the one that the servers use."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from google.rpc import status_pb2

from hma import errors
from hma.rpc.status import CODES, to_status
from hma.v1 import common_pb2
from scripts.reference.markdown import code, plain, table

# Bases, and what only ever happens inside HMA.
_INTERNAL = (
    errors.RetryableError,
    errors.Fenced,
    errors.SettingsError,
    errors.CallFailed,
)


def render(http_statuses: Mapping[str, int]) -> str:
    """The table.

    Args:
        http_statuses: HTTP status of each gRPC status code, by name.
    """
    header = (
        "gRPC status",
        "HTTP",
        "`ErrorInfo.reason`",
        "Further details",
        "In Python",
        "Meaning",
    )
    return table(header, _rows(http_statuses))


def _rows(http_statuses: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    for kind, status in CODES.items():
        if kind in _INTERNAL:
            continue
        meaning = (inspect.getdoc(kind) or "").splitlines()[0]
        if kind is errors.HmaError:
            meaning = "A defect; the message has an id to quote."
        yield (
            code(status.name),
            str(http_statuses[status.name]),
            code(kind.reason),
            ", ".join(map(code, _details(kind))),
            code(kind.__name__),
            plain(meaning),
        )


def _details(kind: type[errors.HmaError]) -> list[str]:
    """The google.rpc details that such an error can carry, ErrorInfo aside."""
    status: status_pb2.Status = to_status(_richest(kind))
    names = [detail.type_url.rpartition(".")[2] for detail in status.details]
    return [name for name in names if name != "ErrorInfo"]


def _richest(kind: type[errors.HmaError]) -> errors.HmaError:
    """An error of this kind with all that it can say."""
    if issubclass(kind, errors.InvalidRequest):
        return kind.field("field", "description")
    if issubclass(kind, errors.QuotaExceeded):
        return kind("message", subject="subject", retry_after=1)
    if issubclass(kind, errors.CallFailed):
        return kind("message", common_pb2.FAILURE_CLASS_INTERNAL, retry_after=1)
    if issubclass(kind, errors.RetryableError):
        return kind("message", retry_after=1)
    return kind("message")
