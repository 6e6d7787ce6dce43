"""Where findings are written down as they are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hma.errors import CallFailed
from hma.llm.probing.findings import Finding
from hma.v1 import common_pb2


class Notebook:
    """The findings so far.

    Attributes:
        features: In the order of measuring.

    Args:
        progress: Gets each finding as it is made.
    """

    def __init__(self, progress: Callable[[Finding], None]) -> None:
        self.features: list[Finding] = []
        self._progress = progress

    def note(self, finding: Finding) -> Finding:
        """Writes a finding down."""
        self.features.append(finding)
        self._progress(finding)
        return finding

    async def measure(self, name: str, work: Awaitable[Finding]) -> Finding:
        """Notes what comes of a measurement, or why nothing did.

        Raises:
            CallFailed: The server refuses the key: nothing further can work.
        """
        try:
            found = await work
        except CallFailed as failure:
            if failure.failure_class == common_pb2.FAILURE_CLASS_AUTH:
                raise
            found = Finding.missed(name, failure.message)
        return self.note(found)
