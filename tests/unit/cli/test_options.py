"""What the command line accepts, and what it says of what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hma.cli.app import COMMANDS, hma
from hma.cli.options import DurationType, PlanType, TokensType


def invoke(*arguments: str) -> Result:
    """Nothing is there to be talked to: what gets so far fails with 6."""
    env = {"HMA_SERVER": "127.0.0.1:1", "TASK": "", "DOCS": "", "BUDGET": "", "DEADLINE": ""}
    return CliRunner(env=env).invoke(hma, list(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "Which ports?"],
        ["run", "Which ports?", "-b", "0"],
        ["run", "Which ports?", "-b", "11m"],
        ["run", "Which ports?", "-b", "5000", "-t", "soon"],
        ["run", "Which ports?", "-b", "5000", "-t", "-5s"],
        ["run", "Which ports?", "-b", "5000", "-d", "no-such-file.md"],
        ["run", "Which ports?", "-b", "5000", "--plan", "pyproject.toml"],
        ["run", "@no-such-file", "-b", "5000"],
        ["run", "-", "-b", "5000"],
        ["run", "  ", "-b", "5000"],
        ["get"],
        ["grant", "job-1", "-5"],
        ["nonsense"],
        ["status", "--output", "xml"],
        ["completion", "tcsh"],
        ["demo", "--docs", "README.md"],
        ["demo", "--task", "Sum up.", "--docs", "no-such-file.md"],
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert "Error: " in done.stderr


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("5000", 5000), ("5_000", 5000), ("5,000", 5000), ("5k", 5000), ("1.5M", 1_500_000)],
)
def test_tokens_are_read_as_people_write_them(text: str, tokens: int) -> None:
    assert TokensType().convert(text, None, None) == tokens


@pytest.mark.parametrize("text", ["", "0", "-1", "5.5", "10000001", "11m", "five", "1e9"])
def test_other_tokens_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        TokensType().convert(text, None, None)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2m", 120), ("1h", 3600), ("5", 5)])
def test_durations_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert DurationType().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["0", "-5s", "soon", "2 weeks", "nan"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DurationType().convert(text, None, None)


def test_a_plan_is_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"tasks": [{"id": "a", "instruction": "Do it."}]}))
    assert PlanType().convert(str(path), None, None).tasks[0].instruction == "Do it."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"tasks": [{"id": "a", "depends": ["b"]}]}', "depends"),
        ('{"tasks": 3}', "tasks"),
    ],
)
def test_a_wrong_plan_says_where_it_is_wrong(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(click.BadParameter, match=said):
        PlanType().convert(str(path), None, None)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    done = invoke(command, "--help")
    assert done.exit_code == 0
    assert "Usage: " in done.output
    assert "hma " + command in done.output.split("Options:")[1]


def test_help_lists_every_command_and_the_exit_codes() -> None:
    done = invoke("--help")
    assert all(command in done.output for command in COMMANDS)
    assert "3  partial" in done.output


def test_options_may_come_from_the_environment() -> None:
    done = CliRunner(env={"HMA_SERVER": "127.0.0.1:2", "HMA_OUTPUT": "json"}).invoke(hma, ["list"])
    assert done.exit_code == 6
    error = json.loads(done.stderr)["error"]
    assert error["reason"] == "UNREACHABLE"
    assert "127.0.0.1:2" in error["message"]
