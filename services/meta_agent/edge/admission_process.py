"""Checks and admits requests without holding up the process that serves.

Dividing megabytes of text takes seconds of processor time, some of it in calls that
no other thread can interrupt: long enough for the replica's lease to be lost and all
its jobs with it. So large requests are worked on by a process of their own, which can
also be ended when it takes too long.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass

from hma.errors import FieldViolation, InvalidRequest, Overloaded
from hma.v1 import meta_agent_pb2
from services.meta_agent.edge.admission import Admission, Admitted, admit
from services.meta_agent.edge.validation import Validator

SMALL = 512 * 1024
"""Requests of at most this many bytes are worked on by a thread: that is quicker."""

AT_ONCE = 2
"""Requests that are worked on at once; each may hold its documents several times over."""

_TIMEOUT = 60.0
_QUEUE_TIMEOUT = 30.0

Outcome = Admitted | tuple[FieldViolation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One request, and all that is needed to check and admit it.

    Attributes:
        request: The serialised CreateJobRequest.

    The others are arguments of `admit`.
    """

    request: bytes
    validator: Validator
    admission: Admission
    job_id: str
    event_id: str
    tenant: str
    now: float

    def run(self) -> Outcome:
        """The job, or what is wrong with the request."""
        request = meta_agent_pb2.CreateJobRequest.FromString(self.request)
        try:
            self.validator.check_create_job(request)
            return admit(
                request,
                self.admission,
                job_id=self.job_id,
                event_id=self.event_id,
                tenant=self.tenant,
                now=self.now,
            )
        except InvalidRequest as error:
            return error.violations


class AdmissionDesk:
    """Works on a few requests at a time; the others wait for their turn."""

    def __init__(self, *, small: int = SMALL, timeout: float = _TIMEOUT) -> None:
        """Starts nothing yet.

        Args:
            small: Largest request, in bytes, that a thread works on.
            timeout: Seconds that a large one may take.
        """
        self._small = small
        self._timeout = timeout
        self._large = asyncio.Semaphore(AT_ONCE)

    async def admit(self, work: Work) -> Admitted:
        """Checks and admits a request.

        Raises:
            InvalidRequest: With every violation.
            Overloaded: Too many large requests came at once.
        """
        if len(work.request) <= self._small:
            return _judge(await asyncio.to_thread(work.run))
        try:
            async with asyncio.timeout(_QUEUE_TIMEOUT):
                await self._large.acquire()
        except TimeoutError:
            raise Overloaded(
                "Too many large jobs are being accepted; try again.", retry_after=5
            ) from None
        try:
            return _judge(await self._work_apart(work))
        finally:
            self._large.release()

    async def _work_apart(self, work: Work) -> Outcome:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.meta_agent.edge.admission_process",
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            async with asyncio.timeout(self._timeout):
                written, _ = await process.communicate(pickle.dumps(work))
        except TimeoutError:
            return (
                FieldViolation(
                    "job.documents",
                    f"could not be divided into sections within {self._timeout:g} s: they have "
                    "too many headings or lines; send them as several jobs",
                ),
            )
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise RuntimeError(f"the admission process ended with {process.returncode}")
        outcome: Outcome = pickle.loads(written)  # noqa: S301 - written by our own process
        return outcome


def _judge(outcome: Outcome) -> Admitted:
    if isinstance(outcome, Admitted):
        return outcome
    raise InvalidRequest(outcome)


def main() -> None:
    """Reads work from standard input and writes its outcome to standard output."""
    work: Work = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - from our own process
    sys.stdout.buffer.write(pickle.dumps(work.run()))


if __name__ == "__main__":
    main()
