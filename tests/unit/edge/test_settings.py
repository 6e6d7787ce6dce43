from __future__ import annotations

from pathlib import Path

import pytest

from hma.errors import SettingsError
from hma.settings import describe, load
from services.meta_agent.settings import MetaAgentSettings
from services.meta_agent.starting import place_of, wait_for_database

URL = {
    "HMA_DATABASE_URL": "postgresql://hma:s3cret-word@db:5432/hma",
    "HMA_INTERNAL_KEY_FILE": "/run/secrets/internal-key",
}


def test_the_defaults_are_those_of_the_protos() -> None:
    settings = load(MetaAgentSettings, URL)
    settings.check()
    assert settings.limits.max_budget_tokens == 10_000_000
    assert float(settings.limits.default_deadline) == 600
    assert (settings.server.port, settings.server.metrics_port) == (50051, 9101)
    assert settings.worker_address == "127.0.0.1:8081"
    assert settings.benchmark_path() is None
    assert settings.server.max_message_bytes > settings.limits.max_job_bytes


def test_secrets_are_not_shown() -> None:
    assert "s3cret-word" not in repr(load(MetaAgentSettings, URL))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HMA_DATABASE_URL", "mysql://u:s3cret-word@h/d"),
        ("HMA_WORKER_ADDRESS", "worker"),
        ("HMA_PUBLIC_URL", "hma.example.org"),
        ("HMA_ANALYST_SHARE", "1.5"),
        ("HMA_MAX_BUDGET_TOKENS", "0"),
        ("HMA_MAX_BUDGET_TOKENS", "3000000000"),
        ("HMA_DEFAULT_TENANT", "a b"),
        ("HMA_META_AGENT_PORT", "70000"),
    ],
)
def test_a_wrong_setting_is_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable) as error:
        load(MetaAgentSettings, URL | {variable: value})
    assert "s3cret-word" not in error.value.message


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"HMA_DATABASE_URL": ""}, "HMA_DATABASE_URL"),
        ({"HMA_INTERNAL_KEY_FILE": ""}, "HMA_INTERNAL_KEY_FILE"),
        ({"HMA_AUTH": "none", "HMA_HOST": "0.0.0.0"}, "HMA_AUTH"),
        ({"HMA_MAX_DEADLINE": "5m"}, "HMA_DEFAULT_DEADLINE"),
        ({"HMA_MAX_JOB_BYTES": "1Mi"}, "HMA_MAX_DOCUMENT_BYTES"),
        ({"HMA_MAX_JOB_BYTES": "40Mi"}, "HMA_MAX_MESSAGE_BYTES"),
    ],
)
def test_settings_that_contradict_each_other_are_named(
    changes: dict[str, str], variable: str
) -> None:
    with pytest.raises(SettingsError, match=variable):
        load(MetaAgentSettings, URL | changes).check()


def test_every_setting_is_described_once() -> None:
    found = [entry.variable for entry in describe(MetaAgentSettings)]
    twice = {name for name in found if found.count(name) > 1}
    # The server and the channels read the same limit.
    assert twice <= {"HMA_MAX_MESSAGE_BYTES"}
    assert all(entry.help for entry in describe(MetaAgentSettings))


@pytest.mark.parametrize(("text", "path"), [("off", None), ("x/y.csv", Path("x/y.csv"))])
def test_the_benchmark_log_can_be_off(text: str, path: Path | None) -> None:
    assert load(MetaAgentSettings, URL | {"HMA_BENCHMARK_LOG": text}).benchmark_path() == path


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:pw@db:5432/x", "db:5432"),
        ("postgresql://u:pw@/x?host=/run/pg", "its Unix socket"),
        ("postgresql://u:pw@db:nope/x", "the address given"),
    ],
)
def test_a_database_is_named_without_its_credentials(url: str, place: str) -> None:
    assert place_of(url) == place


async def test_a_uri_that_is_none_is_a_matter_of_settings() -> None:
    with pytest.raises(SettingsError, match="HMA_DATABASE_URL"):
        await wait_for_database("postgresql://u:pw@db:nope/x", 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"HMA_AUTH": "none", "HMA_INTERNAL_KEY_FILE": ""},
        {"HMA_AUTH": "none", "HMA_HOST": "::1"},
        {"HMA_AUTH": "none", "HMA_HOST": "0.0.0.0", "HMA_AUTH_NONE_ANYWHERE": "true"},
        {"HMA_AUTH": "on", "HMA_HOST": "0.0.0.0"},
    ],
)
def test_nobody_is_let_in_unseen_but_where_nobody_else_can_be(changes: dict[str, str]) -> None:
    load(MetaAgentSettings, URL | changes).check()
