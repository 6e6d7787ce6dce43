"""Coalesces what an attempt says about itself, without losing a character."""

from __future__ import annotations

from collections.abc import Iterator

from hma.v1 import attempt_pb2, common_pb2

MAX_TEXT = 65_536
"""Most characters in one report, so that a burst never nears the message limit."""


class ProgressBuffer:
    """Collects progress and hands it out as reports with gapless offsets.

    The concatenation of the texts of all reports is the concatenation of all
    texts added, and each report's offset is the number of characters before it.

    Args:
        most: Most characters in one report.
    """

    def __init__(self, most: int = MAX_TEXT) -> None:
        self._most = most
        self._latest = attempt_pb2.AttemptProgress()
        self._texts: list[str] = []
        self._dirty = False

    @property
    def dirty(self) -> bool:
        """Whether there is something that no report has said yet."""
        return self._dirty

    def add(
        self,
        *,
        call: int = 0,
        usage: common_pb2.Usage | None = None,
        text: str = "",
        phase: str = "",
    ) -> None:
        """Takes news: text is appended, the other arguments replace what was there."""
        self._latest.call = call
        if usage is not None:
            self._latest.usage.CopyFrom(usage)
        if phase:
            self._latest.phase = phase
        if text:
            self._texts.append(text)
        self._dirty = True

    def take(self) -> attempt_pb2.AttemptProgress | None:
        """The next report, or None when all has been said."""
        if not self._dirty:
            return None
        text = "".join(self._texts)
        head, tail = text[: self._most], text[self._most :]
        self._texts = [tail] if tail else []
        self._dirty = bool(tail)
        report = attempt_pb2.AttemptProgress()
        report.CopyFrom(self._latest)
        report.text = head
        self._latest.offset += len(head)
        return report

    def drain(self) -> Iterator[attempt_pb2.AttemptProgress]:
        """All that has not been said, in order."""
        while (report := self.take()) is not None:
            yield report
