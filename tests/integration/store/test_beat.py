"""The beat: it ends when it must, and says so in time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial

import pytest

from hma.errors import Unavailable
from services.meta_agent.store.beat import Beat, BeatTimes
from services.meta_agent.store.clock import Clock
from services.meta_agent.store.migrate import migrate
from services.meta_agent.store.replicas import Replicas
from services.meta_agent.store.store import Store
from tests.integration.store.making import until
from tests.integration.store.proxy import Proxy

# For losses that are made. A busy machine may make others, so tests look at the first ones.
QUICK = BeatTimes(interval=0.05, lost_after=0.6, loop_stuck_after=0.5, start_timeout=30)
# For tests in which no lease may be lost, however slow the machine is.
STEADY = BeatTimes(interval=0.05, lost_after=60, loop_stuck_after=60, start_timeout=30)


class Samples(Clock):
    """A clock that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[float] = []

    def observe(self, sent: float, received: float, database_time: float) -> None:
        super().observe(sent, received, database_time)
        self.shown.append(database_time)


class Watched:
    """A beat whose callbacks are kept."""

    def __init__(self, url: str, times: BeatTimes = QUICK) -> None:
        self.calls: list[str] = []
        self.clock = Samples()
        self.beat = Beat(
            url,
            "r-1",
            "here:1",
            clock=self.clock,
            on_lost=lambda: self.calls.append("lost"),
            on_renewed=lambda: self.calls.append("renewed"),
            times=times,
        )

    async def begins(self, *calls: str) -> bool:
        return self.calls[: len(calls)] == list(calls)

    async def held(self) -> bool:
        return self.beat.held()


@contextlib.asynccontextmanager
async def beating(url: str, times: BeatTimes = QUICK) -> AsyncIterator[Watched]:
    watched = Watched(url, times)
    async with watched.beat:
        yield watched


async def beats(store: Store) -> float | None:
    """Age of the latest beat of r-1, seconds; None without a row."""
    row = await store.database.fetchrow(
        "SELECT extract(epoch FROM clock_timestamp() - beat)::float8 AS age "
        "FROM replica WHERE id = 'r-1'"
    )
    return row["age"] if row is not None else None


async def last_beat(store: Store) -> datetime | None:
    row = await store.database.fetchrow("SELECT beat FROM replica WHERE id = 'r-1'")
    return row["beat"] if row is not None else None


async def test_a_replica_beats_until_it_leaves(store: Store, postgres_url: str) -> None:
    before = time.time()
    async with beating(postgres_url, STEADY) as watched:
        for _ in range(5):
            last = await last_beat(store)

            async def beat_again(last: datetime | None = last) -> bool:
                return await last_beat(store) != last

            await until(beat_again)
        assert watched.beat.held()
        # The database is on this machine, so its clock is ours.
        assert len(watched.clock.shown) >= 5
        assert all(before - 1 <= each <= time.time() + 1 for each in watched.clock.shown)
    assert await beats(store) is None
    assert watched.calls == []


async def test_it_stops_while_the_event_loop_is_stuck_and_resumes_after(
    store: Store, postgres_url: str
) -> None:
    async with beating(postgres_url) as watched:
        looks = 0
        while watched.beat.held():
            time.sleep(0.1)  # noqa: ASYNC251 - this is what is tested
            looks += 1
            assert looks < 300, "it beats on, though the loop is stuck"
        await until(lambda: watched.begins("lost", "renewed"))
        await until(watched.held)


async def test_a_loss_is_reported_before_the_lease_ends(store: Store, proxy: Proxy) -> None:
    async with beating(proxy.url, BeatTimes(interval=0.5, lost_after=6.0)) as watched:
        proxy.stall()
        await until(lambda: watched.begins("lost"))
        age = await beats(store)
        assert age is not None
        # The lease, too, is half as long again. Who waits for an answer as long as for any
        # other needs fifteen seconds.
        assert age < 9
        proxy.resume()
        await until(lambda: watched.begins("lost", "renewed"))


async def test_it_survives_a_database_that_is_away(store: Store, proxy: Proxy) -> None:
    async with beating(proxy.url) as watched:
        for _ in range(2):
            watched.calls.clear()
            proxy.down()
            await until(lambda: watched.begins("lost"))
            proxy.up()
            await until(lambda: watched.begins("lost", "renewed"))
            await until(watched.held)


async def test_a_short_interruption_is_not_a_loss(store: Store, proxy: Proxy) -> None:
    async with beating(proxy.url, STEADY) as watched:
        proxy.break_all()
        beats_then = len(watched.clock.shown)

        async def beats_on() -> bool:
            return len(watched.clock.shown) > beats_then + 1

        await until(beats_on)
        assert watched.calls == []
        assert watched.beat.held()


async def test_no_first_beat_is_an_error_and_leaves_no_thread(proxy: Proxy) -> None:
    proxy.down()
    with pytest.raises(Unavailable):
        async with beating(proxy.url, BeatTimes(start_timeout=0.3)):
            pass
    assert "beat" not in {thread.name for thread in threading.enumerate()}


async def test_a_stopped_process_learns_of_its_loss_when_it_continues(
    store: Store, postgres_url: str
) -> None:
    script = """
import asyncio, sys
from services.meta_agent.store.beat import Beat, BeatTimes

async def main():
    times = BeatTimes(interval=0.05, lost_after=1.5, start_timeout=30)
    say = lambda text: print(text, flush=True)
    async with Beat(sys.argv[1], "r-1", "there:1", times=times,
                    on_lost=lambda: say("lost"), on_renewed=lambda: say("renewed")) as beat:
        say("beating")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, postgres_url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"beating\n"
            process.send_signal(signal.SIGSTOP)

            async def silent() -> bool:
                return (await beats(store) or 0) > 2

            await until(silent)
            process.send_signal(signal.SIGCONT)
            assert await process.stdout.readline() == b"lost\n"
            assert await process.stdout.readline() == b"renewed\n"
            process.stdin.close()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await beats(store) is None


async def test_rows_of_replicas_long_gone_are_forgotten(store: Store, postgres_url: str) -> None:
    await store.database.execute(
        "INSERT INTO replica VALUES ('old', 'x:1', clock_timestamp() - interval '1 hour'),"
        "('recent', 'x:1', clock_timestamp() - interval '1 minute')"
    )
    async with beating(postgres_url, STEADY):
        rows = await store.database.fetch("SELECT id FROM replica")
        assert {row["id"] for row in rows} == {"recent", "r-1", store.replica_id}
        live = {r.replica_id for r in await Replicas(store.database).live()}
        assert live == {"r-1", store.replica_id}


async def test_the_schema_is_migrated_first(postgres_url: str) -> None:
    assert await migrate(postgres_url) > 0
    assert await migrate(postgres_url) == 0


async def test_a_defect_costs_a_beat_and_not_the_thread(
    store: Store, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with beating(postgres_url) as watched:

        async def broken(*_arguments: object) -> float:
            raise ZeroDivisionError("planted")

        with monkeypatch.context() as planted:
            planted.setattr("services.meta_agent.store.beat.write_beat", broken)
            await until(partial(watched.begins, "lost"))
        await until(partial(watched.begins, "lost", "renewed"))
