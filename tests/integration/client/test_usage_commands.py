"""usage, reconcile and money on the command line, as processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import hma
from hma.v1 import meta_agent_pb2
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent
from tests.integration.client.test_command_line import hma as run_hma

Row = meta_agent_pb2.UsageRow
Usage = meta_agent_pb2.GetUsageResponse


def pages() -> list[Usage]:
    total = Row(prompt_tokens=30, completion_tokens=3, calls=3, jobs=2, cost=0.5)
    return [
        Usage(
            rows=[Row(day="2026-11-02", route="fast", prompt_tokens=20, calls=2, jobs=1)],
            total=total,
            next_page_token="1",
        ),
        Usage(
            rows=[Row(day="2026-11-01", route="fast", prompt_tokens=10, calls=1, jobs=1)],
            total=total,
        ),
    ]


def test_the_client_reads_all_pages_of_usage(server: ScriptedMetaAgent) -> None:
    server.servicer.usage = pages()
    with hma.Client(server.address) as client:
        found = client.usage(["day", "route"], since="7d")
    assert [row.day for row in found.rows] == ["2026-11-02", "2026-11-01"]
    assert (found.total.calls, found.next_page_token) == (3, "")


async def test_so_does_the_client_for_asyncio(server: ScriptedMetaAgent) -> None:
    server.servicer.usage = pages()
    async with hma.AsyncClient(server.address) as client:
        found = await client.usage(["day", "route"], until="2026-12-01")
    assert [row.prompt_tokens for row in found.rows] == [20, 10]


def test_usage_is_a_table_by_day_with_a_total(server: ScriptedMetaAgent) -> None:
    server.servicer.usage = pages()
    done = run_hma(server.address, "usage", "--by", "route", "--by", "day", "--since", "7d")
    assert done.returncode == 0, done.stderr
    header, first, second, total = done.stdout.splitlines()
    assert header.split()[:3] == ["day", "route", "prompt"]
    assert first.split()[:2] == ["2026-11-02", "fast"]
    assert (first.count("█"), second.count("█")) == (24, 12)
    assert total.split()[:2] == ["all", "30"]
    request = server.servicer.requests[0]
    assert list(request.by) == [
        meta_agent_pb2.USAGE_GROUPING_DAY,
        meta_agent_pb2.USAGE_GROUPING_ROUTE,
    ]
    assert request.HasField("start_time")


def test_usage_for_programs_is_one_line_with_all_rows(server: ScriptedMetaAgent) -> None:
    server.servicer.usage = pages()
    done = run_hma(server.address, "usage", "--by", "day", "-o", "json")
    (line,) = done.stdout.splitlines()
    assert [row["day"] for row in json.loads(line)["rows"]] == ["2026-11-02", "2026-11-01"]
    assert json.loads(line)["total"]["cost"] == 0.5


def test_no_usage_is_said(server: ScriptedMetaAgent) -> None:
    assert run_hma(server.address, "usage").stdout == "No calls in this time.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("usage", "--by", "week"),
        ("usage", "--since", "yesterday"),
        ("run", "Who?"),
        ("run", "Who?", "--max-cost", "0"),
        ("run", "Who?", "--max-cost", "nan"),
        ("run", "Who?", "--max-cost", "-1"),
        ("submit", "Who?", "--max-cost", "inf"),
        ("grant", "job-1"),
        ("grant", "job-1", "--cost", "-1"),
        ("reconcile",),
        ("reconcile", "--for", "1s", "--", "true"),
        ("reconcile", "--for", "soon"),
    ],
)
def test_what_the_command_line_cannot_mean_exits_with_2(
    server: ScriptedMetaAgent, arguments: tuple[str, ...]
) -> None:
    done = run_hma(server.address, *arguments)
    assert done.returncode == 2, done.stdout
    assert "Error:" in done.stderr
    assert server.servicer.requests == []


def test_a_job_may_have_a_budget_of_money_alone(server: ScriptedMetaAgent) -> None:
    done = run_hma(server.address, "run", "Which ports?", "--max-cost", "0.02")
    assert done.returncode == 0, done.stderr
    budget = server.servicer.requests[0].job.budget
    assert (budget.max_tokens, budget.max_cost) == (0, 0.02)
    with hma.Client(server.address) as client:
        client.submit("Which ports?", max_cost=0.03)
    assert server.servicer.requests[-1].job.budget.max_cost == 0.03


def test_money_is_granted_alone_or_with_tokens(slow_server: ScriptedMetaAgent) -> None:
    job = run_hma(slow_server.address, "submit", "Which ports?", "-b", "5000").stdout.strip()
    assert run_hma(slow_server.address, "grant", job, "--cost", "0.5").returncode == 0
    assert run_hma(slow_server.address, "grant", job, "2k", "--cost", "0.25").returncode == 0
    with hma.Client(slow_server.address) as client:
        assert client.grant(job, cost=0.125).budget.max_cost == 0.875
        assert client.get(job).budget.max_tokens == 7000


# -- reconcile ------------------------------------------------------------------------


def page(prompt: int, completion: int, running: int = 0) -> str:
    labels = '{engine="0",model_name="m"}'
    return (
        f"vllm:prompt_tokens_total{labels} {prompt}\n"
        f"vllm:generation_tokens_total{labels} {completion}\n"
        f"vllm:num_requests_running{labels} {running}\n"
    )


@contextmanager
def model_server(*answers: str | int) -> Iterator[str]:
    """Serves /metrics: each of these once, the last one for ever; a number is a status."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(answer if isinstance(answer, int) else 200)
            self.end_headers()
            if isinstance(answer, str) and self.path == "/metrics":
                self.wfile.write(answer.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def booked(prompt: int, completion: int) -> list[Usage]:
    row = Row(route="fast", prompt_tokens=prompt, completion_tokens=completion, calls=1)
    return [Usage(rows=[row], total=row)]


def test_sums_that_agree_exit_with_0(server: ScriptedMetaAgent) -> None:
    server.servicer.usage = booked(40, 4)
    with model_server(page(100, 10), page(100, 10), page(140, 14)) as url:
        done = run_hma(server.address, "reconcile", "--llm", url, "--for", "100ms")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:3]] == ["server", "ledger"]
    assert done.stdout.endswith("they agree to the token\n")
    # The ledger was asked for the time since the server was quiet.
    asked = [r for r in server.servicer.requests if isinstance(r, meta_agent_pb2.GetUsageRequest)]
    assert all(request.HasField("start_time") for request in asked)


@pytest.mark.parametrize(
    ("later", "usage", "verdict"),
    [
        (page(141, 14), booked(40, 4), "server_has_more"),
        (page(140, 14), booked(40, 5), "ledger_has_more"),
        (page(1, 1), booked(40, 4), "restarted"),
        (page(140, 14, running=1), booked(40, 4), "busy"),
    ],
)
def test_what_does_not_agree_exits_with_4_and_is_named(
    server: ScriptedMetaAgent, later: str, usage: list[Usage], verdict: str
) -> None:
    server.servicer.usage = usage
    with model_server(page(100, 10), page(100, 10), later) as url:
        done = run_hma(
            server.address,
            *("reconcile", "--llm", url, "--for", "100ms", "--patience", "1s", "-o", "json"),
        )
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["reconciliation"]["verdict"] == verdict


def test_a_server_that_never_rests_serves_others(server: ScriptedMetaAgent) -> None:
    with model_server(page(100, 10, running=2)) as url:
        arguments = ("--for", "1h", "--patience", "500ms")
        done = run_hma(server.address, "reconcile", "--llm", url, *arguments)
    assert done.returncode == 4
    assert "the server is at work for others" in done.stdout


@pytest.mark.parametrize(
    ("answer", "says"),
    [(404, "answers 404"), (501, "--metrics"), ("up 1\n", "no token counters")],
)
def test_a_server_without_counters_exits_with_6(
    server: ScriptedMetaAgent, answer: str | int, says: str
) -> None:
    with model_server(answer) as url:
        done = run_hma(server.address, "reconcile", "--llm", url, "--for", "1s")
    assert done.returncode == 6
    assert says in done.stderr
    assert "cannot be compared" in done.stderr


def test_a_server_that_is_not_there_exits_with_6(server: ScriptedMetaAgent) -> None:
    for url in ("http://127.0.0.1:1/v1", "ftp://x"):
        done = run_hma(server.address, "reconcile", "--llm", url, "--for", "1s")
        assert done.returncode == 6
        assert "Traceback" not in done.stderr


def test_a_command_runs_against_the_same_server_and_its_failure_is_told(
    server: ScriptedMetaAgent,
) -> None:
    server.servicer.usage = booked(40, 4)
    with model_server(page(100, 10), page(100, 10), page(140, 14)) as url:
        done = run_hma(
            server.address, "reconcile", "--llm", url, "-o", "json", "--", "hma", "get", "job-none"
        )
    assert done.returncode == 0
    assert server.servicer.calls["GetJob"] == 1
    assert "ended with exit code 6" in done.stderr
    assert json.loads(done.stdout)["reconciliation"]["verdict"] == "agree"
    with model_server(page(100, 10)) as url:
        done = run_hma(server.address, "reconcile", "--llm", url, "--", "/no/such/program")
    assert done.returncode == 2
