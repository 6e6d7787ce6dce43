"""The table of errors: to a status, over the wire's form, and back."""

from __future__ import annotations

import subprocess
import sys

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from hma import errors
from hma.errors import FieldViolation
from hma.rpc.errors import unexpected
from hma.rpc.status import CALL_CODES, CODES, DETAILS_KEY, code_of, from_rpc_error, to_status
from hma.v1 import common_pb2

FailureClass = common_pb2.FailureClass

SAMPLES: list[errors.HmaError] = [
    errors.HmaError("something"),
    errors.InvalidRequest(
        [FieldViolation("job.budget.max_tokens", "must be positive"), FieldViolation("x", "y")]
    ),
    errors.NotFound("no such job", reason="JOB_NOT_FOUND"),
    errors.AlreadyExists("used before"),
    errors.PreconditionFailed("the job has ended", reason="JOB_ENDED"),
    errors.RetryableError("again", retry_after=1.5),
    errors.Overloaded("full", retry_after=0.25),
    errors.Overloaded("full"),
    errors.QuotaExceeded("spent", subject="tenant:acme/tokens_per_minute", retry_after=30),
    errors.Unauthenticated("who?"),
    errors.PermissionDenied("no"),
    errors.Unavailable("away", reason="DATABASE_AWAY", retry_after=2),
    errors.DeadlinePassed("too late"),
    errors.Fenced("another driver owns the job"),
    errors.SettingsError("HMA_X: wrong"),
    *(
        errors.CallFailed("the call failed", FailureClass.Value(name), retry_after=3)
        for name in FailureClass.keys()  # noqa: SIM118 - an enum wrapper, no mapping
    ),
]


def _subclasses(cls: type[errors.HmaError]) -> set[type[errors.HmaError]]:
    return {cls}.union(*(_subclasses(sub) for sub in cls.__subclasses__()))


def _as_rpc_error(error: errors.HmaError) -> grpc.aio.AioRpcError:
    status = to_status(error)
    trailers = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(
        code_of(error), grpc.aio.Metadata(), trailers, details=status.message
    )


def test_every_error_of_the_tree_has_a_row_and_a_sample() -> None:
    tree = {cls for cls in _subclasses(errors.HmaError) if cls.__module__ == errors.__name__}
    assert tree == set(CODES)
    assert tree == {type(sample) for sample in SAMPLES}


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: f"{type(e).__name__}-{e.reason}")
def test_an_error_survives_the_way_to_the_client(error: errors.HmaError) -> None:
    back = from_rpc_error(_as_rpc_error(error))
    assert type(back) is type(error)
    assert {**vars(back), "reason": back.reason} == {**vars(error), "reason": error.reason}


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: f"{type(e).__name__}-{e.reason}")
def test_every_status_names_the_reason_and_the_domain(error: errors.HmaError) -> None:
    info = error_details_pb2.ErrorInfo()
    assert to_status(error).details[0].Unpack(info)
    assert (info.domain, info.reason) == ("hma", error.reason)


def test_a_subclass_that_the_table_does_not_know_has_its_ancestors_code() -> None:
    class Gone(errors.NotFound):
        reason = "GONE"

    back = from_rpc_error(_as_rpc_error(Gone("it is gone")))
    assert type(back) is errors.NotFound
    assert back.reason == "GONE"


def test_failure_classes_that_are_not_the_servers_fault_are_not_internal() -> None:
    internal = {
        name
        for name, value in FailureClass.items()
        if CALL_CODES.get(value, grpc.StatusCode.INTERNAL) is grpc.StatusCode.INTERNAL
    }
    assert internal == {
        "FAILURE_CLASS_UNSPECIFIED",
        "FAILURE_CLASS_INVALID_OUTPUT",
        "FAILURE_CLASS_INTERNAL",
    }


def test_a_flood_of_violations_is_cut_and_counted() -> None:
    error = errors.InvalidRequest([FieldViolation("é" * 900, "ü" * 900)] * 100)
    status = to_status(error)
    assert status.ByteSize() < 6000
    back = from_rpc_error(_as_rpc_error(error))
    assert isinstance(back, errors.InvalidRequest)
    told = len(back.violations) - 1
    assert told > 3
    assert back.violations[-1].description == f"and {100 - told} more"


@given(st.lists(st.tuples(st.text(max_size=500), st.text(max_size=500)), min_size=1, max_size=200))
def test_a_status_always_fits_into_trailers(violations: list[tuple[str, str]]) -> None:
    error = errors.InvalidRequest([FieldViolation(*each) for each in violations])
    status = to_status(error)
    assert status.ByteSize() < 6000
    assert len(status.message.encode()) < 1100
    back = from_rpc_error(_as_rpc_error(error))
    assert isinstance(back, errors.InvalidRequest)
    assert 1 <= len(back.violations) <= len(violations) + 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Overloaded),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlinePassed),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.UNIMPLEMENTED, errors.HmaError),
        (grpc.StatusCode.ABORTED, errors.HmaError),
        (grpc.StatusCode.UNKNOWN, errors.HmaError),
    ],
)
def test_without_details_the_code_decides(
    code: grpc.StatusCode, expected: type[errors.HmaError]
) -> None:
    empty = grpc.aio.Metadata()
    error = from_rpc_error(grpc.aio.AioRpcError(code, empty, empty, details="from a proxy"))
    assert type(error) is expected
    assert "from a proxy" in error.message
    if expected is errors.HmaError:
        assert error.reason == code.name


def test_details_of_strangers_and_broken_details_do_no_harm() -> None:
    foreign = status_pb2.Status(code=5, message="elsewhere")
    info = error_details_pb2.ErrorInfo(
        reason="X", domain="example.org", metadata={"kind": "Unauthenticated"}
    )
    foreign.details.add().Pack(info)
    for value in (foreign.SerializeToString(), b"\xff\xff", b""):
        trailers = grpc.aio.Metadata((DETAILS_KEY, value))
        raw = grpc.aio.AioRpcError(
            grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, details="gone"
        )
        assert type(from_rpc_error(raw)) is errors.NotFound
    assert type(from_rpc_error(grpc.RpcError())) is errors.HmaError


def test_an_unexpected_error_shows_an_id_that_is_in_the_log_and_none_of_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = unexpected(ValueError("password=hunter2"), "somewhere")
    assert "hunter2" not in shown.message
    (record,) = caplog.records
    assert vars(record)["error_id"] in shown.message


def test_a_client_needs_grpcio_protobuf_and_common_protos_only() -> None:
    absent = (
        "prometheus_client tenacity grpc_status grpc_health grpc_reflection openai asyncpg "
        "aiohttp pydantic jsonschema"
    )
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent.split()!r})); "
        "import hma.rpc.status; print('imported')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "imported"
