"""Logs: one JSON object per line, bound fields, no secrets."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from hma.errors import SettingsError
from hma.settings import Secret, load
from hma.telemetry import logs
from hma.telemetry.logs import LogSettings

log = logging.getLogger("test.logs")


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    # basicConfig(force) closes what it replaces.
    root.handlers.clear()
    stream = io.StringIO()
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def _lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_object_with_bound_and_extra_fields(out: io.StringIO) -> None:
    logs.configure(LogSettings(), "worker", stream=out)
    with logs.bind(job_id="j1", task_uid="1.3"), logs.bind(attempt=2):
        log.info("call %d\nended", 1, extra={"tokens": 412, "odd": {1, 2}})
    log.info("outside")
    inside, outside = _lines(out)
    assert inside["message"] == "call 1\nended"
    assert inside["service"] == "worker"
    assert inside["level"] == "info"
    assert inside["time"].endswith("Z")
    assert (inside["job_id"], inside["task_uid"], inside["attempt"]) == ("j1", "1.3", 2)
    assert inside["tokens"] == 412
    assert "job_id" not in outside


async def test_bound_fields_follow_tasks_and_do_not_mix(out: io.StringIO) -> None:
    logs.configure(LogSettings(), "worker", stream=out)

    async def work(job: str) -> None:
        with logs.bind(job_id=job):
            await asyncio.sleep(0)
            await asyncio.create_task(inner(job))

    async def inner(job: str) -> None:
        log.info(job)

    await asyncio.gather(*(work(f"j{n}") for n in range(5)))
    assert all(line["job_id"] == line["message"] for line in _lines(out))
    assert len(_lines(out)) == 5


def test_secrets_do_not_appear_anywhere(out: io.StringIO) -> None:
    secret = Secret('sk-very"hidden')
    for kind in ("json", "text"):
        logs.configure(LogSettings(format=kind), "worker", hide=[secret], stream=out)
        log.info("key %s", secret, extra={"key": secret, "deep": {"keys": [secret]}})
        log.info("a library wrote %s", secret.reveal(), extra={"raw": secret.reveal()})
        try:
            raise ValueError(secret.reveal())
        except ValueError:
            log.exception("failed")
    assert "hidden" not in out.getvalue()
    assert out.getvalue().count("***") >= 10


def test_a_typed_secret_masks_itself_also_where_none_was_registered(out: io.StringIO) -> None:
    logs.configure(LogSettings(), "worker", stream=out)
    log.info("x", extra={"key": Secret("short"), "deep": {"keys": (Secret("short"),)}})
    (line,) = _lines(out)
    assert (line["key"], line["deep"]) == ("***", {"keys": ["***"]})


def test_exceptions_stay_on_one_line_in_json(out: io.StringIO) -> None:
    logs.configure(LogSettings(), "worker", stream=out)
    try:
        raise KeyError("x")
    except KeyError:
        log.exception("failed")
    (line,) = _lines(out)
    assert "KeyError" in line["exception"]


def test_text_is_for_people_and_the_level_counts(out: io.StringIO) -> None:
    logs.configure(LogSettings(level="warning", format="text"), "worker", stream=out)
    log.info("not said")
    log.warning("said", extra={"tokens": 3})
    assert out.getvalue().endswith("WARNING worker test.logs: said  tokens=3\n")
    assert "not said" not in out.getvalue()


def test_settings_name_the_variable_that_is_wrong() -> None:
    with pytest.raises(SettingsError, match="HMA_LOG_FORMAT"):
        load(LogSettings, {"HMA_LOG_FORMAT": "xml"})


def test_requests_of_the_http_library_are_not_logged_unless_debugging(out: io.StringIO) -> None:
    logs.configure(LogSettings(), "worker", stream=out)
    logging.getLogger("httpx2").info("HTTP Request: GET http://127.0.0.1/health")
    assert out.getvalue() == ""
    logging.getLogger("httpx2").setLevel(logging.NOTSET)
    logs.configure(LogSettings(level="debug"), "worker", stream=out)
    logging.getLogger("httpx2").info("HTTP Request: GET http://127.0.0.1/health")
    assert len(_lines(out)) == 1
