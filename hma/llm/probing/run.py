"""A whole probe: what is cheap and decides how the rest is asked first, in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from hma.errors import Unavailable
from hma.llm.base import LLM
from hma.llm.probing import server, teamwork, throughput
from hma.llm.probing.calling import Caller
from hma.llm.probing.findings import Finding, Findings, Standing
from hma.llm.probing.notebook import Notebook
from hma.llm.probing.purse import Purse
from hma.llm.probing.quality import probe_answers
from hma.llm.routes import Route
from hma.llm.settings import RetryPolicy

# Between looks at a server that is not ready, in seconds.
_WAITS = (0.5, 1.0, 0.0)


async def probe(
    llm: LLM,
    route: Route,
    retry: RetryPolicy,
    *,
    budget: int,
    deadline: float,
    concurrency: int,
    progress: Callable[[Finding], None],
) -> Findings:
    """Measures what a route's model and server can do.

    Args:
        llm: The provider.
        route: What to measure.
        retry: How failed calls are tried again.
        budget: Most tokens, prompt and completion; never exceeded.
        deadline: Seconds after which no call starts and running ones are stopped.
        concurrency: Most calls at once.
        progress: Gets each finding as it is made.

    Raises:
        Unavailable: The server cannot be called; the message says what to do.
        CallFailed: The server refuses the key.
    """
    begin = time.monotonic()
    await _await_server(llm, route)
    purse = Purse(budget, begin + deadline)
    caller = Caller(llm, route, purse, retry, concurrency)
    notes = Notebook(progress)
    await _probe_server(caller, notes)
    await notes.measure("can_plan", teamwork.can_plan(caller))
    await notes.measure("can_reduce", teamwork.can_reduce(caller))
    await _probe_rates(caller, notes)
    await probe_answers(caller, notes)
    return Findings(
        route=route.name,
        model=caller.model or route.model,
        profile=route.profile,
        features=tuple(notes.features),
        budget=budget,
        spent=purse.spent,
        calls=purse.calls,
        seconds=time.monotonic() - begin,
    )


async def _await_server(llm: LLM, route: Route) -> None:
    """Waits a moment for a server that is only busy.

    Raises:
        Unavailable: It cannot be called.
    """
    for wait in _WAITS:
        readiness = await llm.readiness(route)
        if readiness.ready:
            return
        await asyncio.sleep(wait)
    raise Unavailable(readiness.detail)


async def _probe_server(caller: Caller, notes: Notebook) -> None:
    """What the server can do. Each finding shapes the calls that follow."""
    steps: Sequence[tuple[str, Callable[[Caller], Awaitable[Finding]]]] = (
        ("tokenizer", server.tokenizer),
        ("chunk_usage", server.chunk_usage),
        ("logprobs", server.logprobs),
        ("thinking_switch", server.thinking_switch),
    )
    for name, step in steps:
        found = await notes.measure(name, step(caller))
        if found.standing is Standing.MEASURED:
            caller.learn(**{name: found.value})
    thoughts = await notes.measure("think_tokens", server.think_tokens(caller))
    await notes.measure("honours_think_budget", server.honours_think_budget(caller, thoughts.value))
    await notes.measure("constrains_json", server.constrains_json(caller))
    await notes.measure("tools", server.tools(caller))


async def _probe_rates(caller: Caller, notes: Notebook) -> None:
    for at_once in sorted({1, caller.concurrency}):
        for name, step in (
            ("prompt_tokens_per_second", throughput.prompt_rate),
            ("completion_tokens_per_second", throughput.completion_rate),
        ):
            await notes.measure(f"{name}_at_{at_once}", step(caller, at_once))
