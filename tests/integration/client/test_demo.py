"""The demo and its plain call against scripted servers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hma.cli.plain_call import ModelServer, ask_plainly
from hma.errors import DeadlinePassed, HmaError, Unavailable
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent
from tests.scripted_llm import Rule, ScriptedLLM, refuse, say

ROOT = Path(__file__).parents[3]
QUESTIONS = ["Which port?", "Which licence?"]


async def ask(
    llm: ScriptedLLM, document: str, budget: int = 2000, model: str = ""
) -> tuple[str, int, float]:
    server = ModelServer(llm.base_url, model)
    reply = await asyncio.to_thread(
        ask_plainly, server, [("README.md", document)], QUESTIONS, budget
    )
    return reply.text, reply.prompt_tokens + reply.completion_tokens, reply.shown


@pytest.mark.parametrize("style", ["vllm", "llama.cpp"])
@pytest.mark.parametrize("budget", [300, 1000, 5000])
async def test_a_plain_call_stays_within_budget_and_context(style: str, budget: int) -> None:
    async with ScriptedLLM([Rule(say("1. 8080"))], style=style, context_tokens=2048) as llm:
        text, spent, shown = await ask(llm, "The port is 8080. " * 2000, budget)
        (call,) = llm.calls
    assert text == "1. 8080"
    assert call.prompt_tokens + call.max_tokens <= min(budget, 2048)
    assert spent <= budget
    assert 0 < shown < 1


async def test_a_document_that_fits_is_sent_whole() -> None:
    async with ScriptedLLM([Rule(say("1. 8080"))]) as llm:
        _, _, shown = await ask(llm, "The port is 8080.")
        (call,) = llm.calls
    assert shown == 1.0
    assert "The port is 8080." in call.body["messages"][-1]["content"]
    assert "2. Which licence?" in call.body["messages"][-1]["content"]


async def test_a_context_smaller_than_thought_is_met_by_half_of_the_documents() -> None:
    rules = [Rule(refuse(400), nth=1), Rule(say("1. 8080"))]
    async with ScriptedLLM(rules) as llm:
        text, _, shown = await ask(llm, "The port is 8080. " * 20)
    assert text == "1. 8080"
    assert shown == pytest.approx(0.5, abs=0.05)


async def test_a_refused_plain_call_says_so() -> None:
    async with ScriptedLLM([Rule(refuse(500))]) as llm:
        with pytest.raises(HmaError, match="answers 500"):
            await ask(llm, "The port is 8080.")


async def test_a_plain_call_has_its_time_and_no_more() -> None:
    async with ScriptedLLM([Rule(say("1. 8080", first_delay=5.0))]) as llm:
        server = ModelServer(llm.base_url, timeout=0.5)
        with pytest.raises(DeadlinePassed, match=r"no reply within 0\.5 s"):
            await asyncio.to_thread(ask_plainly, server, [], QUESTIONS, 1000)


async def test_nobody_there_says_so() -> None:
    with pytest.raises(Unavailable, match="did not answer"):
        await asyncio.to_thread(
            ask_plainly, ModelServer("http://127.0.0.1:1/v1"), [], QUESTIONS, 1000
        )


def demo(
    cwd: Path, server: ScriptedMetaAgent, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    ours = {"HMA_SERVER": server.address, "PYTHONPATH": str(ROOT), "HMA_LLM_PORT": "1"}
    return subprocess.run(
        [sys.executable, "-m", "hma.cli", "demo", *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **ours, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_demo_counts_both_sides(server: ScriptedMetaAgent, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("The gateway listens on 8080.", encoding="utf-8")
    async with ScriptedLLM([Rule(say("1. 8080\n2. 50051"))]) as llm:
        done = await asyncio.to_thread(
            demo, tmp_path, server, "-o", "json", HMA_LLM_BASE_URL=llm.base_url
        )
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout.splitlines()[-1])["comparison"]
    assert len(compared["rows"]) >= 8
    assert compared["plain"]["hits"] == 2
    assert compared["hma"]["hits"] == 0
    (request, *_) = server.servicer.requests
    assert [document.name for document in request.job.documents] == ["README.md"]


def test_the_demo_goes_on_without_a_plain_call(server: ScriptedMetaAgent, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("The gateway listens on 8080.", encoding="utf-8")
    done = demo(tmp_path, server)
    assert done.returncode == 0, done.stderr
    assert "how many were hit" in done.stdout
    assert "one plain call: http://127.0.0.1:1/v1 did not answer" in done.stdout


def test_the_demo_runs_the_users_own_job(server: ScriptedMetaAgent, tmp_path: Path) -> None:
    for name in ("a.md", "b c.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    done = demo(
        tmp_path, server, TASK="Sum up.", DOCS="a.md 'b c.txt'", BUDGET="6000", DEADLINE="120s"
    )
    assert done.returncode == 0, done.stderr
    (request, *_) = server.servicer.requests
    assert request.job.task_description == "Sum up."
    assert [document.name for document in request.job.documents] == ["a.md", "b c.txt"]
    assert request.job.budget.max_tokens == 6000
    assert request.job.budget.deadline.seconds == 120
    assert "how many were hit" not in done.stdout


def test_the_demo_outside_the_repository_says_where_to_run_it(
    server: ScriptedMetaAgent, tmp_path: Path
) -> None:
    done = demo(tmp_path, server)
    assert done.returncode == 2
    assert "run it in the repository" in done.stderr
