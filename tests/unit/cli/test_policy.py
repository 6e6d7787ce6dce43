"""`--policy NAME=VALUE`: every field of the policy, and what is said of a wrong one."""

from __future__ import annotations

import click
import pytest

from hma.cli.policy import FailureRuleType, PolicyType, policy_of
from hma.v1 import common_pb2, job_pb2


def parse(*texts: str) -> job_pb2.JobPolicy | None:
    return policy_of(tuple(PolicyType().convert(text, None, None) for text in texts))


def test_fields_are_set_in_the_words_of_the_api() -> None:
    policy = parse(
        "max-rounds=2",
        "halting=Adaptive",
        "min_gain_per_1000_tokens=0.8",
        "budgeting=off",
        "failure_policy=fail fast",
        "dispatch=waves",
        "layer_timeout=30s",
    )
    assert policy is not None
    assert policy.max_rounds == 2
    assert policy.halting == job_pb2.HALTING_POLICY_ADAPTIVE
    assert policy.min_gain_per_1000_tokens == 0.8
    assert policy.budgeting == job_pb2.SWITCH_OFF
    assert policy.failure_policy == job_pb2.FAILURE_POLICY_FAIL_FAST
    assert policy.dispatch == job_pb2.DISPATCH_WAVES
    assert policy.layer_timeout.seconds == 30


def test_without_the_option_there_is_no_policy() -> None:
    assert parse() is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("halting", "expected NAME=VALUE with one of dispatch, budgeting"),
        ("colour=red", "expected NAME=VALUE"),
        ("shape=team", "expected NAME=VALUE"),
        ("halting=sometimes", "halting: expected fixed or adaptive, got 'sometimes'"),
        ("halting=unspecified", "halting: expected fixed or adaptive"),
        ("max_rounds=two", "max_rounds: expected a number, got 'two'"),
        ("layer_timeout=soon", "layer_timeout: expected a time"),
    ],
)
def test_wrong_setting_says_what_there_is(text: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said.replace("(", "\\(")):
        parse(text)


def test_shell_completes_names_and_values() -> None:
    def complete(text: str) -> list[str]:
        context = click.Context(click.Command("run"))
        option = click.Option(["--policy"])
        return [item.value for item in PolicyType().shell_complete(context, option, text)]

    assert complete("max_r") == ["max_rounds="]
    assert complete("halting=") == ["halting=fixed", "halting=adaptive"]
    assert complete("max_rounds=2") == []


def rule(text: str) -> job_pb2.FailureRule:
    return FailureRuleType().convert(text, None, None)


def test_what_follows_a_failure_is_said_by_class() -> None:
    rules = rule("timeout=retry:5"), rule("invalid-output=Give_Up"), rule("refused=stop-job")
    policy = policy_of((), rules)
    assert policy is not None
    assert [(r.failure_class, r.action, r.max_attempts) for r in policy.failure_rules] == [
        (common_pb2.FAILURE_CLASS_TIMEOUT, job_pb2.FAILURE_ACTION_RETRY, 5),
        (common_pb2.FAILURE_CLASS_INVALID_OUTPUT, job_pb2.FAILURE_ACTION_GIVE_UP, 0),
        (common_pb2.FAILURE_CLASS_REFUSED, job_pb2.FAILURE_ACTION_STOP_JOB, 0),
    ]


@pytest.mark.parametrize("text", ["", "timeout", "timeout=", "timout=retry", "timeout=retry:x"])
def test_a_wrong_rule_is_told_what_there_is(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"rate-limited.*stop-job"):
        rule(text)


def test_classes_and_actions_are_completed() -> None:
    completed = FailureRuleType().shell_complete(None, None, "timeout=")  # type: ignore[arg-type]
    assert "timeout=give-up" in [item.value for item in completed]
