"""All the jobs that this replica drives: claims them, starts their drivers, gives them up."""

from __future__ import annotations

import asyncio
import logging

from hma.errors import Fenced, Unavailable
from hma.telemetry import logs
from services.meta_agent.driving import poison
from services.meta_agent.driving.driver import JobDriver, Surroundings
from services.meta_agent.store.claims import Claimed, Claims
from services.meta_agent.store.notify import Notifications

_log = logging.getLogger(__name__)

CLAIM_LOT = 16
"""Jobs claimed in one statement."""

LOOK_AGAIN = 1.0
"""Seconds after which claimable jobs are looked for, though nobody has said so."""


class Drivers:
    """Claims jobs up to a limit and drives each in a task of its own."""

    def __init__(
        self,
        claims: Claims,
        notifications: Notifications,
        replica: str,
        around: Surroundings,
        *,
        max_jobs: int,
        max_failed_claims: int = 5,
    ) -> None:
        """Nothing is claimed yet.

        Args:
            claims: Takes jobs.
            notifications: Tells of jobs to be had.
            replica: This replica's id.
            around: What the drivers share.
            max_jobs: Jobs driven at once; the others wait in the database, but not
                beyond their deadline: then they are driven to their end all the same.
            max_failed_claims: A job whose driver has failed so often in a row by a
                defect is ended.
        """
        self._claims = claims
        self._notifications = notifications
        self._replica = replica
        self._around = around
        self._max_jobs = max_jobs
        self._max_failed_claims = max_failed_claims
        self._running: dict[str, tuple[JobDriver, asyncio.Task[None]]] = {}
        self._place_free = asyncio.Event()
        self._leaving = False

    @property
    def driving(self) -> int:
        """Jobs that are driven here now."""
        return len(self._running)

    @property
    def ready_tasks(self) -> int:
        """Tasks that could run but wait for a place, over all jobs driven here."""
        return sum(driver.ready_tasks for driver, _ in self._running.values())

    def lease_lost(self) -> None:
        """Another replica may claim our jobs any moment: close all streams now."""
        _log.error("the lease is lost: all %d drivers are stopped", len(self._running))
        for _, task in self._running.values():
            task.cancel()

    async def hand_over(self, grace: float) -> None:
        """Claims no more, and gives each job away once nothing runs in its name.

        What still runs then is given up by the end of `run`.

        Args:
            grace: Seconds that this may take.
        """
        self._leaving = True
        for driver, _ in self._running.values():
            driver.leave()
        end = asyncio.get_running_loop().time() + grace
        while self._running and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait([task for _, task in self._running.values()], timeout=left)

    async def run(self) -> None:
        """Claims and drives until cancelled; then gives every job back."""
        try:
            while not self._leaving:
                mark = self._notifications.claimable_mark()
                if not await self._claim():
                    await self._notifications.wait_claimable(mark, LOOK_AGAIN)
            await asyncio.Event().wait()
        finally:
            await self._give_up_all()

    async def _claim(self) -> bool:
        """Claims what there is room for; whether another try at once may bring more."""
        room = self._max_jobs - len(self._running)
        if room > 0:
            limit = min(room, CLAIM_LOT)
            return await self._take(limit) == limit
        self._place_free.clear()
        await self._take(CLAIM_LOT, overdue_only=True)
        try:
            async with asyncio.timeout(LOOK_AGAIN):
                await self._place_free.wait()
        except TimeoutError:
            pass
        return True

    async def _take(self, limit: int, *, overdue_only: bool = False) -> int:
        """Claims jobs and starts to drive them; how many."""
        try:
            claimed = await self._claims.claim(
                self._replica, limit, driving=list(self._running), overdue_only=overdue_only
            )
        except Unavailable as error:
            _log.warning("cannot claim jobs: %s", error.message)
            return 0
        for job in claimed:
            self._start(job)
        return len(claimed)

    def _start(self, claimed: Claimed) -> None:
        driver = JobDriver(claimed, self._replica, self._around)
        task = asyncio.create_task(self._drive(claimed, driver), name=f"drive {claimed.job_id}")
        self._running[claimed.job_id] = (driver, task)
        if self._leaving:
            driver.leave()

    async def _drive(self, claimed: Claimed, driver: JobDriver) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        with logs.bind(job_id=claimed.job_id, epoch=claimed.epoch):
            try:
                pause = poison.wait_after_losses(claimed.lost)
                if pause and not claimed.overdue:
                    _log.warning("its last %d drivers were lost: left alone", claimed.lost)
                    # Workers have stopped by now: they had no beat for as long as it was lost.
                    await self._give_back(
                        claimed, delay=pause, failed=None, suspect=True, idle=True
                    )
                elif pause or claimed.failed >= self._max_failed_claims:
                    _log.error(
                        "not driven any more: ended",
                        extra={"failed": claimed.failed, "lost": claimed.lost},
                    )
                    await poison.end_poisoned(
                        claimed, self._around.log, self._around.clock, self._around.rules
                    )
                else:
                    await driver.run()
                    if not driver.ended:
                        await self._give_back(claimed, delay=0.0, failed=claimed.failed, idle=True)
            except Fenced:
                _log.info("another replica drives the job, or it is gone")
            except Unavailable as error:
                _log.warning("stopped driving: %s", error.message)
            except Exception:  # noqa: BLE001 - the last resort, logged
                # One job's defect must not stop the others. It is claimed again later and
                # later, here or elsewhere, and in the end it is ended without deciding.
                _log.exception("a driver failed")
                failed = poison.failures_now(claimed.failed, loop.time() - begin)
                # Its streams are closed: while it is left alone, its places are for others.
                await self._give_back(
                    claimed, delay=poison.wait_after(failed), failed=failed, idle=True
                )
            finally:
                self._running.pop(claimed.job_id, None)
                self._place_free.set()

    async def _give_back(
        self,
        claimed: Claimed,
        *,
        delay: float,
        failed: int | None,
        suspect: bool = False,
        idle: bool = False,
    ) -> None:
        try:
            await self._claims.release(
                claimed.job_id,
                claimed.epoch,
                delay=delay,
                failed=failed,
                suspect=suspect,
                idle=idle,
            )
        except Unavailable as error:
            _log.warning("cannot give the job back; its lease runs out: %s", error.message)

    async def _give_up_all(self) -> None:
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
