from __future__ import annotations

import dataclasses
import hashlib
import unicodedata

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from hma.errors import InvalidRequest
from hma.llm.prices import Prices
from hma.llm.routes import Routes
from hma.v1 import common_pb2, job_pb2, meta_agent_pb2, task_pb2
from services.meta_agent.edge.admission import Admission, Admitted, admit, fingerprint
from services.meta_agent.edge.documents import thin_sections
from services.meta_agent.edge.money import say_at_least
from services.meta_agent.job.apply import apply
from services.meta_agent.job.state import JobFold
from tests.unit.edge.factory import admission, create_request, document, task

NOW = 1_800_000_000.25


def admitted(
    request: meta_agent_pb2.CreateJobRequest, defaults: Admission | None = None
) -> Admitted:
    return admit(
        request, defaults or admission(), job_id="job-x", event_id="e1", tenant="acme", now=NOW
    )


def created(request: meta_agent_pb2.CreateJobRequest) -> job_pb2.JobCreated:
    return admitted(request).event.job_created


def test_the_first_event_folds_to_a_queued_job() -> None:
    request = create_request()
    request.request_id = "r1"
    event = admitted(request).event
    fold = apply(JobFold(), event)
    assert (fold.job_id, fold.state, fold.budget) == ("job-x", job_pb2.JOB_STATE_QUEUED, 2000)
    assert (event.event_id, event.epoch, event.sequence) == ("e1", 0, 0)
    assert (event.job_created.tenant, event.job_created.request_id) == ("acme", "r1")
    assert fold.create_time == pytest.approx(NOW)


def test_adaptive_halting_may_have_several_rounds() -> None:
    request = create_request()
    request.job.policy.halting = job_pb2.HALTING_POLICY_ADAPTIVE
    assert created(request).policy.max_rounds == 4
    request.job.policy.max_rounds = 2
    assert created(request).policy.max_rounds == 2


def test_defaults_are_filled_in() -> None:
    job = created(create_request())
    assert job.budget == job_pb2.Budget(max_tokens=2000, deadline=Duration(seconds=600))
    assert job.policy == job_pb2.JobPolicy(
        shape=job_pb2.JOB_SHAPE_AUTO,
        dispatch=job_pb2.DISPATCH_DATAFLOW,
        budgeting=job_pb2.SWITCH_ON,
        interruption=job_pb2.SWITCH_ON,
        routing=job_pb2.SWITCH_ON,
        failure_policy=job_pb2.FAILURE_POLICY_CONTINUE,
        max_rounds=1,
        max_attempts=3,
        halting=job_pb2.HALTING_POLICY_FIXED,
        min_gain_per_1000_tokens=0.5,
    )
    assert job.deadline_time.ToMicroseconds() == round((NOW + 600) * 1e6)


def test_layers_of_waves_get_the_time_limit_of_the_setting_and_others_none() -> None:
    limited = dataclasses.replace(admission(), layer_timeout=30.0)
    request = create_request()
    assert not admitted(request, limited).event.job_created.policy.HasField("layer_timeout")
    request.job.policy.dispatch = job_pb2.DISPATCH_WAVES
    assert admitted(request, limited).event.job_created.policy.layer_timeout.seconds == 30
    request.job.policy.layer_timeout.FromSeconds(5)
    assert admitted(request, limited).event.job_created.policy.layer_timeout.seconds == 5


def test_what_the_client_chose_is_kept() -> None:
    request = create_request()
    request.job.total_budget_tokens = 0
    request.job.budget.max_tokens = 1500
    request.job.budget.max_cost = 0.5
    request.job.budget.deadline.FromMilliseconds(1500)
    request.job.policy.shape = job_pb2.JOB_SHAPE_SINGLE
    request.job.policy.budgeting = job_pb2.SWITCH_OFF
    request.job.policy.layer_timeout.FromSeconds(7)
    request.job.policy.max_attempts = 1
    job = created(request)
    assert (job.budget.max_tokens, job.budget.max_cost) == (1500, 0.5)
    assert job.deadline_time.ToMicroseconds() == round((NOW + 1.5) * 1e6)
    assert job.policy.shape == job_pb2.JOB_SHAPE_SINGLE
    assert job.policy.budgeting == job_pb2.SWITCH_OFF
    assert job.policy.layer_timeout.seconds == 7
    assert job.policy.max_attempts == 1


def test_items_are_found_in_the_description() -> None:
    request = create_request()
    request.job.task_description = "Who wrote it? Which port does it use?"
    assert [item.item_id for item in created(request).items] == ["q1", "q2"]


def test_documents_get_ids_outlines_and_their_content() -> None:
    raw = job_pb2.DocumentInput(name="notes.txt", content=b"\xef\xbb\xbfcafe\xcc\x81")
    done = admitted(create_request(documents=[document("a.md"), raw]))
    (first, _), (second, content) = done.documents
    assert [d.document_id for d in done.event.job_created.documents] == ["d1", "d2"]
    assert (first.media_type, second.media_type) == ("text/markdown", "text/plain")
    # The byte order mark is gone and the accent is composed: what is counted is sent.
    assert content == "café".encode()
    assert second.sha256 == hashlib.sha256(content).hexdigest()
    assert second.size_bytes == len(content) == second.sections[-1].end_byte


@given(st.text(max_size=200), st.text(min_size=1, max_size=50))
def test_stored_text_is_normalised_and_sections_tile_it(text: str, description: str) -> None:
    request = create_request(documents=[document("a.md", text)])
    request.job.task_description = description
    done = admitted(request)
    ((ref, content),) = done.documents
    assert unicodedata.is_normalized("NFC", content.decode())
    assert unicodedata.is_normalized("NFC", done.event.job_created.task_description)
    ends = [0, *(s.end_byte for s in ref.sections)]
    assert [s.start_byte for s in ref.sections] == ends[:-1]
    assert ends[-1] == len(content)


def test_a_plan_names_documents_by_name_or_id() -> None:
    tasks = [
        task("a", documents=["e\u0301.md", "d2", "d2", "é.md#0"]),
        task("b", documents=["d1#0"], items=[task_pb2.Item(item_id="price", text="Price?")]),
    ]
    job = created(create_request(*tasks, documents=[document("é.md"), document("b.md")]))
    assert list(job.plan.tasks[0].documents) == ["d1", "d2", "d1#0"]
    assert list(job.plan.tasks[1].documents) == ["d1#0"]
    assert job.plan.tasks[0].complexity == common_pb2.COMPLEXITY_MEDIUM
    assert job.plan.tasks[0].kind == common_pb2.TASK_KIND_ANSWER
    # With a plan, the plan says what is asked.
    assert [item.item_id for item in job.items] == ["price"]


def test_an_unknown_section_is_refused() -> None:
    request = create_request(task("a", documents=["d1", "a.md#9"]))
    with pytest.raises(InvalidRequest, match=r"job\.plan\.tasks\[0\]\.documents\[1\]"):
        admitted(request)


def test_a_budget_that_buys_nothing_is_refused_and_says_what_it_would_need() -> None:
    request = create_request()
    request.job.total_budget_tokens = 3
    with pytest.raises(InvalidRequest) as error:
        admitted(request)
    (violation,) = error.value.violations
    assert violation.field == "job.total_budget_tokens"
    needed = int(violation.description.split(" needs ")[1].split()[0].replace(",", ""))
    request.job.total_budget_tokens = needed
    admitted(request)
    request.job.total_budget_tokens = needed - 1
    with pytest.raises(InvalidRequest):
        admitted(request)


def with_money(money: float, tokens: int = 0) -> meta_agent_pb2.CreateJobRequest:
    request = create_request()
    request.job.total_budget_tokens = tokens
    request.job.budget.max_cost = money
    return request


def test_money_alone_is_read_as_the_tokens_it_buys_at_the_cheapest_price() -> None:
    # One unit a million prompt tokens, two a million completion tokens.
    job = created(with_money(0.02))
    assert (job.budget.max_tokens, job.budget.max_cost) == (20_000, 0.02)
    assert created(with_money(1e9)).budget.max_tokens == 10_000_000
    assert created(with_money(0.02, tokens=5000)).budget.max_tokens == 5000


def test_of_the_routes_that_a_job_may_use_the_cheapest_counts() -> None:
    dear = dataclasses.replace(
        admission().routes["fast"], name="dear", prices=Prices(prompt=0.0, completion=8.0)
    )
    defaults = dataclasses.replace(
        admission(), routes=Routes({"fast": admission().routes["fast"], "dear": dear}, "fast")
    )
    request = with_money(0.02)
    assert admitted(request, defaults).event.job_created.budget.max_tokens == 20_000
    request.job.policy.route = "dear"
    assert admitted(request, defaults).event.job_created.budget.max_tokens == 2_500


@pytest.mark.parametrize("tokens", [0, 2000])
def test_money_that_buys_no_call_is_refused_and_says_what_would_do(tokens: int) -> None:
    with pytest.raises(InvalidRequest) as error:
        admitted(with_money(1e-9, tokens))
    (violation,) = error.value.violations
    assert violation.field == "job.budget.max_cost"
    needed = float(violation.description.split(" needs ")[1].split()[0])
    admitted(with_money(needed, tokens))
    with pytest.raises(InvalidRequest):
        admitted(with_money(needed * 0.99, tokens))


def test_money_without_a_price_is_refused_though_it_is_the_only_limit() -> None:
    free = dataclasses.replace(admission().routes["fast"], prices=Prices(known=False))
    defaults = dataclasses.replace(admission(), routes=Routes({"fast": free}, "fast"))
    with pytest.raises(InvalidRequest, match="no price"):
        admitted(with_money(0.02), defaults)


@pytest.mark.parametrize(
    ("money", "said"),
    [(0, "0"), (0.5, "0.5"), (0.00031234, "0.000313"), (1234.5, "1240"), (1e-9, "0.000000001")],
)
def test_money_is_said_rounded_up(money: float, said: str) -> None:
    assert say_at_least(money) == said
    assert float(said) >= money


def test_the_fingerprint_tells_requests_apart() -> None:
    one, other = create_request(), create_request()
    assert fingerprint(one.job) == fingerprint(other.job)
    other.job.documents[0].text += " "
    assert fingerprint(one.job) != fingerprint(other.job)


def test_thousands_of_sections_are_joined_and_still_tile() -> None:
    refs = []
    for number in (1, 2):
        ref = task_pb2.DocumentRef(document_id=f"d{number}")
        for index in range(50):
            ref.sections.add(
                section_id=f"d{number}#{index}",
                heading=f"h{index}",
                start_byte=index * 10,
                end_byte=index * 10 + 10,
                approximate_tokens=3,
            )
        refs.append(ref)
    thin_sections(refs, limit=20)
    assert sum(len(ref.sections) for ref in refs) == 20
    sections = refs[1].sections
    assert [s.section_id for s in sections] == [f"d2#{n}" for n in range(10)]
    assert [s.start_byte for s in sections] == [0, *(s.end_byte for s in sections)][:-1]
    assert (sections[-1].end_byte, sections[1].heading) == (500, "h5")
    assert sum(s.approximate_tokens for s in sections) == 150
