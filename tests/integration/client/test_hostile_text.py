"""No text of a job, wherever it comes from, drives the terminal or the log of who reads it."""

from __future__ import annotations

import json

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.integration.client.job_logs import Team
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent
from tests.integration.client.test_command_line import hma as run_hma

HOSTILE = (
    "\x1b]8;;https://evil.test\x07\x1b[2J\x1b]0;title\x07\x9b31m\x7f[bold red]\u202egnp.exe\u2066"
    "\u200b\ufeff\u2028\U000e0041\r" + "z\u0301" + "\u0301" * 500
)
_NAMES = ("id", "task_uid", "item_id", "type", "route")


def spoil(message: Message) -> None:
    """Puts hostile text behind every text of `message` that is no name."""
    for field, value in message.ListFields():
        repeated = field.is_repeated
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in value if repeated else [value]:
                spoil(each)
        elif field.type == FieldDescriptor.TYPE_STRING and not (
            field.name in _NAMES or field.name.endswith(("_id", "_ids"))
        ):
            if repeated:
                for index, text in enumerate(value):
                    value[index] = text + HOSTILE
            else:
                setattr(message, field.name, value + HOSTILE)


def assert_harmless(text: str) -> None:
    found = {c for c in text if c in HOSTILE and not (c.isascii() and c.isprintable())}
    assert found <= {"\u0301"}, found
    assert "\u0301" * 5 not in text


@pytest.fixture
def hostile() -> list[object]:
    """The script of a job all of whose texts are hostile."""
    steps = Team(tasks=4, failing=[1]).steps()
    for step in steps:
        spoil(step.update)
    return list(steps)


def test_texts_of_a_job_do_not_reach_the_terminal_as_they_are(hostile: list[object]) -> None:
    with ScriptedMetaAgent(hostile, speed=50) as server:  # type: ignore[arg-type]
        submitted = run_hma(
            server.address, "submit", "What" + HOSTILE.replace("\r", ""), "-b", "9000"
        )
        job_id = submitted.stdout.strip()
        for command in (
            ["watch", job_id],
            ["get", job_id],
            ["list"],
            ["watch", job_id, "-o", "json"],
            ["get", job_id, "-o", "json"],
            ["list", "-o", "json"],
            ["get", "job-" + "nowhere\u202e"],
        ):
            done = run_hma(server.address, *command)
            assert done.stdout or done.returncode == 6, done.stderr
            assert_harmless(done.stdout.replace("\u0301", "") if "json" in command else done.stdout)
            assert_harmless(done.stderr)


def test_json_says_the_same_with_escapes(hostile: list[object]) -> None:
    with ScriptedMetaAgent(hostile, speed=50) as server:  # type: ignore[arg-type]
        job_id = run_hma(server.address, "submit", "What?", "-b", "9000").stdout.strip()
        run_hma(server.address, "watch", job_id)
        job = json.loads(run_hma(server.address, "get", job_id, "-o", "json").stdout)
    assert job["answer"]["text"].endswith(HOSTILE)
