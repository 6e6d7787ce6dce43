from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from hma.errors import InvalidRequest
from services.meta_agent.edge.admission import Admitted
from services.meta_agent.edge.admission_process import AdmissionDesk, Work
from tests.unit.edge.factory import admission, create_request, document, task, validator


def work(budget: int = 2000) -> Work:
    request = create_request(task("a", documents=["b.md"]), documents=[document("b.md")])
    request.job.total_budget_tokens = budget
    return Work(
        request=request.SerializeToString(),
        validator=validator(),
        admission=admission(),
        job_id="job-x",
        event_id="e1",
        tenant="acme",
        now=1_800_000_000.0,
    )


_before: set[int] = set()


@pytest.fixture(autouse=True)
def _others() -> None:
    """Notes what other tests of this process have running, such as a database."""
    _before.clear()
    _before.update(child.pid for child in psutil.Process().children())


def children() -> list[psutil.Process]:
    """Processes that the test has started and that still run."""
    return [child for child in psutil.Process().children() if child.pid not in _before]


async def test_a_process_of_its_own_gives_what_a_thread_gives() -> None:
    near = await AdmissionDesk().admit(work())
    apart = await AdmissionDesk(small=0).admit(work())
    assert isinstance(apart, Admitted)
    assert apart == near
    assert apart.documents[0][1] == b"# A\n\nThe port is 8080.\n"


@pytest.mark.parametrize("small", [0, 1 << 20])
async def test_a_bad_request_is_refused_by_field_wherever_it_is_checked(small: int) -> None:
    with pytest.raises(InvalidRequest) as error:
        await AdmissionDesk(small=small).admit(work(budget=-1))
    assert [v.field for v in error.value.violations] == ["job.total_budget_tokens"]


async def test_what_takes_too_long_is_ended_and_refused() -> None:
    with pytest.raises(InvalidRequest, match="could not be divided") as error:
        await AdmissionDesk(small=0, timeout=0.05).admit(work())
    assert error.value.violations[0].field == "job.documents"
    assert children() == []


async def test_a_caller_that_leaves_leaves_no_process_behind() -> None:
    waiting = asyncio.create_task(AdmissionDesk(small=0).admit(work()))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert children() == []


async def test_a_process_that_dies_is_a_defect_and_not_the_callers_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended with 1"):
        await AdmissionDesk(small=0).admit(work())


async def test_a_process_that_hangs_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    async with asyncio.timeout(30):
        with pytest.raises(InvalidRequest, match="could not be divided"):
            await AdmissionDesk(small=0, timeout=0.2).admit(work())
    assert children() == []
