"""The demo's questions, and when an answer is a hit."""

from __future__ import annotations

import pytest
from rich.console import Console

from hma.cli import demo_job
from hma.cli.comparison import Comparison
from hma.cli.demo_job import Question, answers_of, split_reply
from hma.cli.plain_call import PlainReply
from hma.v1 import common_pb2, job_pb2, task_pb2

PORTS = (Question("Which port?", ("8080",)), Question("Which licence?", ("Apache-2.0",)))


def job(*answers: tuple[str, str, common_pb2.Origin.ValueType]) -> job_pb2.Job:
    found = job_pb2.Job(
        items=[
            task_pb2.Item(item_id="q7", text="Which port?"),
            task_pb2.Item(item_id="q8", text="2. Which licence?"),
        ],
        ledger=job_pb2.Ledger(spent_tokens=321),
    )
    found.create_time.FromSeconds(100)
    found.end_time.FromSeconds(112)
    for item_id, answer, origin in answers:
        found.answer.items.add(item_id=item_id, answer=answer, origin=origin)
    return found


def test_the_demo_asks_enough_and_every_question_can_be_checked() -> None:
    demo = demo_job.load()
    assert len(demo.questions) >= 8
    assert all(question.accept and all(question.accept) for question in demo.questions)
    assert len({question.text for question in demo.questions}) == len(demo.questions)
    assert "1. " + demo.questions[0].text in demo.description
    for question in demo.questions:
        assert not question.hit(question.text), "a question must not hold its own answer"


@pytest.mark.parametrize(
    ("accept", "answer", "hit"),
    [
        ("8080", "It listens on 8080.", True),
        ("8080", "port 18080", False),
        ("20", "2025", False),
        ("20", "20.", True),
        ("20", "1.20", False),
        ("1.5", "1.5×", True),
        ("1.5", "21.5", False),
        ("1.5", "1.55", False),
        ("10 MiB", "at most 10  mib", True),
        ("PostgreSQL", "postgresql 18", True),
        ("Apache-2.0", "the Apache-2.0 licence", True),
        ("partial", "impartial", False),
    ],
)
def test_a_hit_holds_an_accepted_answer_as_whole_words(accept: str, answer: str, hit: bool) -> None:
    assert Question("?", (accept,)).hit(answer) is hit


def test_answers_are_found_by_their_question_whatever_their_id() -> None:
    given = answers_of(
        job(("q8", "MIT", common_pb2.ORIGIN_MODEL), ("q7", "8080", common_pb2.ORIGIN_EXTRACT)),
        PORTS,
    )
    assert [(g.answer, g.extract) for g in given] == [("8080", True), ("MIT", False)]
    assert [g.answer for g in answers_of(job(), PORTS)] == ["", ""]


@pytest.mark.parametrize(
    ("reply", "answers"),
    [
        ("1. 8080\n2. MIT", ["8080", "MIT", ""]),
        ("Sure:\n1) 8080\nand so on\n3: Envoy", ["8080\nand so on", "", "Envoy"]),
        ("**1.** 8080\nQ2: MIT", ["** 8080", "MIT", ""]),
        ("8080, MIT", ["8080, MIT"] * 3),
        ("9. out of range", ["9. out of range"] * 3),
        ("", ["", "", ""]),
    ],
)
def test_a_reply_is_split_by_its_numbers(reply: str, answers: list[str]) -> None:
    assert split_reply(reply, 3) == answers


def test_the_comparison_counts_both_sides_and_marks_extracts() -> None:
    ended = job(
        ("q7", "port 8080 it is", common_pb2.ORIGIN_EXTRACT), ("q8", "MIT", common_pb2.ORIGIN_MODEL)
    )
    plain = PlainReply("1. 80\n2. Apache-2.0", 900, 30, 2.5, 0.4)
    compared = Comparison.of(PORTS, ended, plain)
    assert (len(compared.our_hits), compared.their_hits) == (1, 1)
    text = printed(compared)
    assert "HMA: 1 of 2 hit, 1 of them extracted without a model; 321 tokens, 12s" in text
    assert "one plain call: 1 of 2 hit; 930 tokens, 2.5s; 40% of the documents fitted" in text
    assert "port 8080 it is (extract)" in text
    body = compared.as_dict()
    assert body["hma"] == {"hits": 1, "tokens": 321, "seconds": 12.0}
    assert [row["plain"]["hit"] for row in body["rows"]] == [False, True]


def test_a_plain_call_that_did_not_work_is_no_zero() -> None:
    compared = Comparison.of(PORTS, job(), None, "nobody there")
    assert "one plain call: nobody there" in printed(compared)
    assert compared.as_dict()["plain"] is None


def printed(compared: Comparison) -> str:
    console = Console(width=140, color_system=None)
    with console.capture() as capture:
        for part in compared.render():
            console.print(part)
    return capture.get()
