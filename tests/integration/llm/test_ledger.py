"""Whatever happens, the ledger and the server agree, and no grant is exceeded."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from hma.errors import CallFailed
from hma.llm.base import Message, Prompt
from hma.settings import Seconds
from hma.v1 import attempt_pb2
from tests.integration.llm.attempts import Bench, GrantedAttempt, at_most, is_exact, total
from tests.scripted_llm import Reply, ScriptedLLM, refuse

WORK = attempt_pb2.CALL_PURPOSE_WORK
LONG = "word " * 60

faults = st.one_of(
    st.just(Reply()),
    st.just(Reply(text=LONG)),
    st.just(Reply(text=LONG, reasoning="so it is")),
    st.builds(refuse, st.sampled_from([400, 401, 429, 500, 502, 503])),
    st.integers(0, 20).map(lambda n: Reply(text=LONG, disconnect_after=n)),
    st.integers(1, 20).map(lambda n: Reply(text=LONG, broken_chunk_after=n)),
    st.integers(1, 20).map(lambda n: Reply(text=LONG, error_after=n)),
    st.integers(0, 5).map(lambda n: Reply(text=LONG, hang_after=n)),
    st.integers(0, 5).map(lambda n: Reply(text="{", whitespace=n)),
    st.just(Reply(text=LONG, usage="none")),
)
prompts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=80)


@settings(max_examples=60, deadline=None)
@given(
    style=st.sampled_from(["vllm", "llama.cpp"]),
    script=st.lists(faults, max_size=4),
    texts=st.lists(prompts, min_size=1, max_size=3),
    grant=st.integers(0, 200),
    max_completion=st.integers(1, 80),
    stop_at=st.none() | st.integers(0, 60),
    can_count=st.booleans(),
)
def test_no_grant_is_exceeded_and_every_token_is_booked(
    style: str,
    script: list[Reply],
    texts: list[str],
    grant: int,
    max_completion: int,
    stop_at: int | None,
    can_count: bool,
) -> None:
    async def run() -> None:
        async with (
            ScriptedLLM(script, style=style) as server,
            Bench(server, stall_timeout=Seconds(0.05)) as bench,
        ):
            if not can_count:
                server.fault["/tokenize"] = 500
            attempt = GrantedAttempt(at_most(grant if can_count else grant + 300))
            stopper = asyncio.create_task(stop_when(server, attempt, stop_at))
            llm = bench.budgeted(attempt)
            for text in texts:
                try:
                    await llm.complete(
                        Prompt((Message("user", text),)),
                        purpose=WORK,
                        max_completion=max_completion,
                        min_completion=1,
                    )
                except CallFailed:
                    continue
            stopper.cancel()
            await server.wait_idle()
            check(server, attempt)

    asyncio.run(run())


async def stop_when(
    server: ScriptedLLM, attempt: GrantedAttempt, completion_tokens: int | None
) -> None:
    if completion_tokens is not None:
        await server.wait_until(lambda s: s.completion_tokens >= completion_tokens, timeout=60)
        attempt.stop.set()


def check(server: ScriptedLLM, attempt: GrantedAttempt) -> None:
    assert attempt.exact <= server.total_tokens <= attempt.most
    if all(is_exact(call.usage) for call in attempt.calls):
        assert attempt.exact == server.total_tokens
    assert [call.call for call in attempt.calls] == sorted({c.call for c in attempt.calls})
    for call in attempt.calls:
        assert total(call.usage) <= call.max_tokens <= attempt.granted[call.call]
    for request in server.calls:
        number = int(request.headers["x-hma-call"].rsplit("/", 1)[1])
        if request.prompt_tokens:
            assert request.prompt_tokens + request.max_tokens <= attempt.granted[number]
