from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from hma.errors import FieldViolation, InvalidRequest, NotFound
from hma.v1 import common_pb2, job_pb2, meta_agent_pb2
from services.meta_agent.store.ids import new_job_id
from tests.unit.edge.factory import create_request, document, task, validator

Create = meta_agent_pb2.CreateJobRequest
Break = Callable[[Create], object]


def set_field(path: str, value: object) -> Break:
    def change(request: Create) -> None:
        *parents, last = path.split(".")
        target: object = request
        for name in parents:
            target = getattr(target, name)
        if isinstance(value, Message):
            getattr(target, last).CopyFrom(value)
        else:
            setattr(target, last, value)

    return change


def seconds(value: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(value * 1e9))
    return duration


def with_documents(*documents: job_pb2.DocumentInput) -> Break:
    def change(request: Create) -> None:
        del request.job.documents[:]
        request.job.documents.extend(documents)

    return change


def raw(content: bytes, name: str = "a.md") -> job_pb2.DocumentInput:
    return job_pb2.DocumentInput(name=name, content=content)


def add_rules(*rules: tuple[int, int, int]) -> Break:
    def change(request: Create) -> None:
        for failure_class, action, tries in rules:
            request.job.policy.failure_rules.add(
                failure_class=failure_class,
                action=action,
                max_attempts=tries,
            )

    return change


TIMEOUT = common_pb2.FAILURE_CLASS_TIMEOUT
RETRY = job_pb2.FAILURE_ACTION_RETRY
_NO_BUDGET = ("job.total_budget_tokens", "or job.budget.max_cost")
CASES: list[tuple[str, Break, str, str]] = [
    ("no job", lambda r: r.ClearField("job"), "job", "required"),
    ("empty task", set_field("job.task_description", ""), "job.task_description", "required"),
    ("blank task", set_field("job.task_description", " \n\t"), "job.task_description", "blank"),
    ("long task", set_field("job.task_description", "x" * 100_001), "job.task_description", "100"),
    ("NUL in task", set_field("job.task_description", "a\0"), "job.task_description", "NUL"),
    ("no budget", set_field("job.total_budget_tokens", 0), "job.total_budget_tokens", "10,000,000"),
    ("negative budget", set_field("job.total_budget_tokens", -5), "job.total_budget_tokens", "-5"),
    (
        "absurd budget",
        set_field("job.total_budget_tokens", 10_000_001),
        "job.total_budget_tokens",
        "10,000,000",
    ),
    (
        "two budgets",
        set_field("job.budget.max_tokens", 3000),
        "job.total_budget_tokens",
        "set one of them",
    ),
    ("money", set_field("job.budget.max_cost", -0.5), "job.budget.max_cost", "0"),
    ("no budget at all", lambda r: r.job.ClearField("total_budget_tokens"), *_NO_BUDGET),
    (
        "infinite money",
        set_field("job.budget.max_cost", float("inf")),
        "job.budget.max_cost",
        "finite",
    ),
    ("no money", set_field("job.budget.max_cost", float("nan")), "job.budget.max_cost", "finite"),
    ("deadline past", set_field("job.budget.deadline", seconds(-1)), "job.budget.deadline", "past"),
    ("deadline now", set_field("job.budget.deadline", seconds(0)), "job.budget.deadline", "past"),
    (
        "deadline far",
        set_field("job.budget.deadline", seconds(86_401)),
        "job.budget.deadline",
        "at most 86400 s",
    ),
    (
        "deadline malformed",
        set_field("job.budget.deadline", Duration(seconds=5, nanos=-1)),
        "job.budget.deadline",
        "not a duration",
    ),
    ("wait", set_field("wait", seconds(-1)), "wait", "0 s to 600 s"),
    ("long wait", set_field("wait", seconds(601)), "wait", "0 s to 600 s"),
    ("request id", set_field("request_id", "x" * 129), "request_id", "128"),
    ("request id NUL", set_field("request_id", "a\0b"), "request_id", "control"),
    ("shape", set_field("job.policy.shape", 99), "job.policy.shape", "99 is not known"),
    ("route", set_field("job.policy.route", "warp"), "job.policy.route", "fast, reasoning"),
    ("rounds", set_field("job.policy.max_rounds", 9), "job.policy.max_rounds", "8"),
    ("tries", set_field("job.policy.max_attempts", -1), "job.policy.max_attempts", "10"),
    ("priority", set_field("job.policy.priority", 101), "job.policy.priority", "-100 to 100"),
    (
        "rule without an action",
        add_rules((TIMEOUT, 0, 0)),
        "job.policy.failure_rules[0].action",
        "required",
    ),
    (
        "rule of an unknown class",
        add_rules((99, RETRY, 0)),
        "job.policy.failure_rules[0].failure_class",
        "99 is not known",
    ),
    (
        "rule with too many tries",
        add_rules((TIMEOUT, RETRY, 11)),
        "job.policy.failure_rules[0].max_attempts",
        "10",
    ),
    (
        "two rules of a class",
        add_rules((TIMEOUT, RETRY, 1), (TIMEOUT, RETRY, 2)),
        "job.policy.failure_rules[1].failure_class",
        "has a rule already",
    ),
    (
        "layer timeout",
        set_field("job.policy.layer_timeout", seconds(0)),
        "job.policy.layer_timeout",
        "more than 0 s",
    ),
    ("name missing", with_documents(document("")), "job.documents[0].name", "required"),
    ("name blank", with_documents(document("  ")), "job.documents[0].name", "blank"),
    ("name long", with_documents(document("n" * 256)), "job.documents[0].name", "255"),
    ("name control", with_documents(document("a\nb")), "job.documents[0].name", "control"),
    (
        "name twice",
        with_documents(document("é.md"), document("e\u0301.md")),
        "job.documents[1].name",
        "also the name of documents[0]",
    ),
    (
        "name is an id",
        with_documents(document("d2"), document("b")),
        "job.documents[0].name",
        "id of another document",
    ),
    ("binary", with_documents(raw(b"PK\x03\x00x")), "job.documents[0].content", "offset 3"),
    (
        "not UTF-8",
        with_documents(document("ok"), document("b"), raw(b"caf\xe9")),
        "job.documents[2].content",
        "offset 3",
    ),
    (
        "text and content",
        with_documents(job_pb2.DocumentInput(name="a", text="x", content=b"x")),
        "job.documents[0].text",
        "set one of them",
    ),
    ("NUL in text", with_documents(document("a", "x\0")), "job.documents[0].text", "binary"),
    (
        "media type",
        with_documents(job_pb2.DocumentInput(name="a", text="x", media_type="markdown!")),
        "job.documents[0].media_type",
        "MIME",
    ),
]


def found_in(call: Callable[[], None]) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as error:
        call()
    return {v.field: v.description for v in error.value.violations}


@pytest.mark.parametrize(
    ("break_it", "field", "says"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_a_bad_field_is_named_and_nothing_else_is(break_it: Break, field: str, says: str) -> None:
    request = create_request()
    break_it(request)
    found = found_in(lambda: validator().check_create_job(request))
    assert list(found) == [field]
    assert says in found[field]


def test_a_valid_request_passes() -> None:
    validator().check_create_job(create_request())
    validator().check_create_job(create_request(documents=[]))


def test_all_violations_are_found_at_once() -> None:
    request = create_request(task("a", "b"), task("a", "zz"), documents=[raw(b"\xff"), raw(b"\0")])
    request.job.documents[1].name = "b.md"
    request.job.total_budget_tokens = -1
    request.job.policy.route = "warp"
    request.request_id = "x" * 200
    found = found_in(lambda: validator().check_create_job(request))
    assert set(found) == {
        "request_id",
        "job.total_budget_tokens",
        "job.policy.route",
        "job.documents[0].content",
        "job.documents[1].content",
        "job.plan.tasks[1].id",
        "job.plan.tasks[0].depends_on[0]",
        "job.plan.tasks[1].depends_on[0]",
    }


@pytest.mark.parametrize(
    ("limit", "value", "documents", "field"),
    [
        ("max_document_bytes", 10, [document("a", "x" * 11)], "job.documents[0].text"),
        ("max_document_bytes", 10, [raw("é".encode() * 6)], "job.documents[0].content"),
        ("max_documents", 1, [document("a"), document("b")], "job.documents"),
        (
            "max_job_bytes",
            60,
            [document("a", "x" * 30), document("b", "x" * 30)],
            "job.documents",
        ),
    ],
)
def test_size_limits_are_settings(
    limit: str, value: int, documents: list[job_pb2.DocumentInput], field: str
) -> None:
    request = create_request(documents=documents)
    found = found_in(lambda: validator(**{limit: value}).check_create_job(request))
    assert list(found) == [field]


def test_the_limits_themselves_are_accepted() -> None:
    request = create_request(documents=[document("n" * 255, "x" * 50)])
    request.job.task_description = "d" * 20
    request.job.total_budget_tokens = 10_000_000
    request.job.budget.deadline.CopyFrom(seconds(86_400))
    request.wait.CopyFrom(seconds(600))
    request.request_id = "r" * 128
    strict = validator(max_description_chars=20, max_document_bytes=50, max_job_bytes=70)
    strict.check_create_job(request)


COMMANDS = [
    (meta_agent_pb2.CancelJobRequest, "check_command"),
    (meta_agent_pb2.InterruptJobRequest, "check_command"),
    (meta_agent_pb2.DeleteJobRequest, "check_command"),
    (meta_agent_pb2.GetJobRequest, "check_get_job"),
    (meta_agent_pb2.WatchJobRequest, "check_watch_job"),
]


@pytest.mark.parametrize(("message", "check"), COMMANDS)
@pytest.mark.parametrize("job_id", ["nope", "job-", "job-\0", "JOB-" + "0" * 26, "x" * 10_000])
def test_an_impossible_job_id_is_not_found(message: type, check: str, job_id: str) -> None:
    with pytest.raises(NotFound):
        getattr(validator(), check)(message(job_id=job_id))


@pytest.mark.parametrize(("message", "check"), COMMANDS)
def test_a_missing_job_id_is_a_fault_of_the_request(message: type, check: str) -> None:
    assert list(found_in(lambda: getattr(validator(), check)(message()))) == ["job_id"]


@pytest.mark.parametrize(("message", "check"), COMMANDS)
def test_a_new_job_id_passes(message: type, check: str) -> None:
    getattr(validator(), check)(message(job_id=new_job_id()))


@pytest.mark.parametrize("money", [-1.0, float("nan"), float("inf"), float("-inf")])
def test_bad_money_without_tokens_is_named_once(money: float) -> None:
    request = create_request()
    request.job.ClearField("total_budget_tokens")
    request.job.budget.max_cost = money
    found = found_in(lambda: validator().check_create_job(request))
    assert list(found) == ["job.budget.max_cost"]


def test_money_alone_is_a_budget() -> None:
    request = create_request()
    request.job.ClearField("total_budget_tokens")
    request.job.budget.max_cost = 0.5
    validator().check_create_job(request)


@pytest.mark.parametrize("money", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("tokens", [0, 100])
def test_granted_money_is_finite_and_above_zero(money: float, tokens: int) -> None:
    request = meta_agent_pb2.GrantBudgetRequest(job_id=new_job_id(), cost=money, tokens=tokens)
    assert list(found_in(lambda: validator().check_grant_budget(request))) == ["cost"]


def test_a_grant_is_tokens_or_money_or_both() -> None:
    for tokens, cost in ((1, 0.0), (0, 0.1), (1, 0.1)):
        validator().check_grant_budget(
            meta_agent_pb2.GrantBudgetRequest(job_id=new_job_id(), tokens=tokens, cost=cost)
        )


USAGE_CASES: list[tuple[dict[str, object], str, str]] = [
    ({"page_size": -1}, "page_size", "1,000"),
    ({"page_size": 1001}, "page_size", "1,000"),
    ({"by": [0]}, "by[0]", "must be a grouping"),
    ({"by": [3, 2, 3]}, "by[2]", "twice"),
    ({"by": [9]}, "by[0]", "9 is not known"),
    ({"start_time": Timestamp(seconds=-1)}, "start_time", "1970"),
    ({"end_time": Timestamp(seconds=1 << 50)}, "end_time", "9999"),
    ({"end_time": Timestamp(nanos=-1)}, "end_time", "1970"),
    (
        {"start_time": Timestamp(seconds=5), "end_time": Timestamp(seconds=5)},
        "end_time",
        "after start_time",
    ),
]


@pytest.mark.parametrize(("fields", "field", "says"), USAGE_CASES)
def test_a_bad_question_about_usage_is_refused(
    fields: dict[str, object], field: str, says: str
) -> None:
    request = meta_agent_pb2.GetUsageRequest(**fields)  # type: ignore[arg-type]
    found = found_in(lambda: validator().check_get_usage(request))
    assert list(found) == [field]
    assert says in found[field]


def test_reasons_are_bounded() -> None:
    request = meta_agent_pb2.CancelJobRequest(job_id=new_job_id(), reason="x" * 1001)
    assert list(found_in(lambda: validator().check_command(request))) == ["reason"]


@pytest.mark.parametrize("tokens", [-1, 0, 10_000_001])
def test_a_grant_is_one_token_or_more(tokens: int) -> None:
    request = meta_agent_pb2.GrantBudgetRequest(job_id=new_job_id(), tokens=tokens)
    assert list(found_in(lambda: validator().check_grant_budget(request))) == ["tokens"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (meta_agent_pb2.ListJobsRequest(page_size=501), "page_size"),
        (meta_agent_pb2.ListJobsRequest(page_size=-1), "page_size"),
        (
            meta_agent_pb2.ListJobsRequest(
                states=[job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_UNSPECIFIED]
            ),
            "states[1]",
        ),
        (meta_agent_pb2.ListJobsRequest(states=[77]), "states[0]"),  # type: ignore[list-item]
    ],
)
def test_list_requests_are_checked(request_: meta_agent_pb2.ListJobsRequest, field: str) -> None:
    assert list(found_in(lambda: validator().check_list_jobs(request_))) == [field]


texts = st.text(max_size=30)
numbers = st.integers(min_value=-(2**31), max_value=2**31 - 1)
durations = st.builds(
    Duration, seconds=st.integers(-(2**62), 2**62), nanos=st.integers(-(2**31), 2**31 - 1)
)


@st.composite
def any_requests(draw: st.DrawFn) -> Create:
    plan_tasks = draw(
        st.lists(
            st.builds(
                task,
                texts,
                texts,
                instruction=texts,
                documents=st.lists(texts, max_size=2),
                output_schema=texts,
                timeout=durations,
                max_tokens=numbers,
                max_cost=st.floats(),
                tools=st.lists(texts, max_size=2),
                complexity=st.integers(-5, 9),
            ),
            max_size=3,
        )
    )
    documents = draw(
        st.lists(
            st.builds(
                job_pb2.DocumentInput,
                name=texts,
                content=st.binary(max_size=20),
                text=texts,
                media_type=texts,
            ),
            max_size=3,
        )
    )
    request = create_request(*plan_tasks, documents=documents)
    request.job.task_description = draw(texts)
    request.job.total_budget_tokens = draw(numbers)
    request.job.budget.max_tokens = draw(numbers)
    request.job.budget.deadline.CopyFrom(draw(durations))
    request.wait.CopyFrom(draw(durations))
    request.request_id = draw(texts)
    return request


def resolves(message: Message, path: str) -> bool:
    """Whether a path of a violation names a field of the request."""
    target: object = message
    for part in path.split("."):
        name, _, index = part.partition("[")
        if not isinstance(target, Message) or name not in target.DESCRIPTOR.fields_by_name:
            return False
        target = getattr(target, name)
        if index:
            target = target[int(index.rstrip("]"))]  # type: ignore[index]
    return True


def violations_of(request: Create) -> tuple[FieldViolation, ...]:
    try:
        validator().check_create_job(request)
    except InvalidRequest as error:
        return error.violations
    return ()


@given(any_requests())
def test_whatever_comes_is_accepted_or_refused_by_field(request: Create) -> None:
    before = request.SerializeToString(deterministic=True)
    for violation in violations_of(request):
        assert resolves(request, violation.field), violation
        assert violation.description
        assert len(violation.description) < 400
    assert request.SerializeToString(deterministic=True) == before


def test_enum_numbers_of_tasks_are_checked() -> None:
    bad = task("a", complexity=42, kind=common_pb2.TASK_KIND_WRITE)
    found = found_in(lambda: validator().check_create_job(create_request(bad)))
    assert list(found) == ["job.plan.tasks[0].complexity"]
