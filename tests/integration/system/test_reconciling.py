"""`hma reconcile` over the whole system: ledger and server agree, and others are noticed."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

from tests.integration.client.test_command_line import hma
from tests.integration.store.making import until
from tests.integration.system.whole import Whole, open_whole
from tests.scripted_llm import say

QUESTIONS = "Answer these questions:\n1. Who paid for the mill?\n2. When was it built?\n"


async def reconcile(whole: Whole, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Runs the command; exit code and what it found."""
    server = ("--llm", whole.llm.base_url)
    done = await asyncio.to_thread(
        hma, whole.address, "reconcile", "-o", "json", *server, *arguments
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["reconciliation"]


async def test_a_job_s_tokens_are_what_the_server_counted(
    postgres_url: str, tmp_path: Path
) -> None:
    document = tmp_path / "mill.md"
    document.write_text("The mill was built in 1764. Anna Hale paid for it.\n")
    async with open_whole(postgres_url, lambda _: say(" 1764\n"), profile="smollm2") as whole:
        # What was counted and booked before is not part of the comparison.
        await whole.client.run(QUESTIONS, documents=[document], budget=4000, deadline=60)
        before = whole.llm.total_tokens
        run = ("hma", "run", QUESTIONS, "-d", str(document), "-b", "4000")
        code, found = await reconcile(whole, "--", *run)
        assert (code, found["verdict"]) == (0, "agree")
        assert found["sentence"] == "they agree to the token"
        assert found["known_tokens"] == whole.llm.total_tokens - before > 0
        assert found["ledger"]["calls"] == 2
        usage = await whole.client.usage(["route"])
        assert [row.route for row in usage.rows] == ["fast"]
        assert (usage.total.jobs, usage.total.calls) == (2, 4)
        spent = usage.total.prompt_tokens + usage.total.completion_tokens
        assert spent == whole.llm.total_tokens


async def test_another_client_of_the_server_is_noticed(postgres_url: str) -> None:
    async with open_whole(postgres_url, lambda _: say(" 1764\n"), profile="smollm2") as whole:
        looking = asyncio.create_task(reconcile(whole, "--for", "2s"))
        before = whole.llm.total_tokens
        # Once the command has looked at the server the first time.
        await until(partial(_looked, whole))
        await asyncio.to_thread(_call_directly, whole.llm.base_url)
        code, found = await looking
        assert (code, found["verdict"]) == (4, "server_has_more")
        assert found["server"]["prompt"] + found["server"]["completion"] == (
            whole.llm.total_tokens - before
        )
        assert "serves others" in found["sentence"]


async def test_a_job_that_goes_on_is_no_time_to_compare(postgres_url: str) -> None:
    async with open_whole(
        postgres_url, lambda _: say(" 1764\n", first_delay=30), profile="smollm2"
    ) as whole:
        job = await whole.client.submit(QUESTIONS, budget=4000, deadline=60)
        code, found = await reconcile(whole, "--for", "1s", "--patience", "500ms")
        assert (code, found["verdict"]) == (4, "busy")
        assert "jobs of HMA are running" in found["sentence"]
        await whole.client.cancel(job)
        await whole.client.wait(job)


async def _looked(whole: Whole) -> bool:
    return whole.llm.requests.count(("/metrics", None)) >= 2


def _call_directly(base_url: str) -> None:
    messages = [{"role": "user", "content": "Hello there"}]
    body = {"model": "scripted", "messages": messages, "max_tokens": 5}
    request = urllib.request.Request(
        f"{base_url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        reply.read()
