"""Reads a plan while the model writes it: the brief and each task as they close."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import ijson
from ijson.common import ObjectBuilder

MAX_BYTES = 200_000
"""What is read of a model's output at most; a plan is some kilobytes."""

# Not the C backend: on numbers of thousands of digits it breaks the interpreter's rules.
_JSON = ijson.get_backend("python")
# The last two come from numbers.
_FAULTS = (ijson.JSONError, StopIteration, ValueError, ArithmeticError)

MAX_DEPTH = 8
"""Deepest nesting that a plan can have, and some more."""

Part = Literal["brief", "task"]


@dataclass(frozen=True, slots=True)
class Closed:
    """A part of the plan that the model has closed.

    Attributes:
        part: Which part.
        value: The JSON object, not yet checked.
    """

    part: Part
    value: dict[str, Any]


class PlanReader:
    """A push parser. Never raises: after text that is no JSON it reads no further.

    Close it, or use `contextlib.closing`.

    Attributes:
        complete: The whole object has been read.
        broken: What was read is not the beginning of a plan.
    """

    def __init__(self) -> None:
        self.complete = False
        self.broken = False
        self._started = False
        self._size = 0
        # Where in the object: depth, key of the outermost map, what lies below it.
        self._depth = 0
        self._key = ""
        self._below = ""
        self._part: Part = "brief"
        self._outer = 0
        self._builder: ObjectBuilder | None = None
        self._events = ijson.sendable_list()
        self._parser = _JSON.basic_parse_coro(self._events)

    def feed(self, text: str) -> list[Closed]:
        """Reads on; returns what has closed, in order."""
        if self.complete or self.broken:
            return []
        if not self._started:
            # Servers that do not constrain decoding let the model write a lead-in.
            _, brace, rest = text.partition("{")
            text = brace + rest
            self._started = bool(brace)
        data = text.encode("utf-8", "replace")
        if not data:
            # To the parser, empty input is the end.
            return []
        self._size += len(data)
        try:
            self._parser.send(data)
        except _FAULTS:
            # What closed before the fault stands.
            self.broken = True
        self.broken = self.broken or self._size > MAX_BYTES
        closed = list(self._closed())
        del self._events[:]
        return closed

    def close(self) -> None:
        """Lets go of the parser, which complains when it ends within a value."""
        with suppress(*_FAULTS):
            self._parser.close()

    def _closed(self) -> Iterator[Closed]:
        for event, value in self._events:
            if event in ("start_map", "start_array"):
                self._enter(event)
                if self._depth > MAX_DEPTH:
                    self.broken = True
                    return
            elif event == "map_key" and self._depth == 1:
                self._key = value
            if self._builder is not None:
                self._builder.event(event, value)
            if event in ("end_map", "end_array"):
                self._depth -= 1
                if self._builder is not None and self._depth == self._outer:
                    yield Closed(self._part, self._builder.value)
                    self._builder = None
            if self._depth == 0:
                # Chatter after the plan is not read; the parser would object to it.
                self.complete = True
                self.broken = False
                return

    def _enter(self, event: str) -> None:
        self._depth += 1
        if self._depth == 2:
            self._below = event
        if self._builder is not None or event != "start_map":
            return
        if self._depth == 2 and self._key == "brief":
            self._part, self._outer = "brief", 1
        elif self._depth == 3 and self._key == "tasks" and self._below == "start_array":
            self._part, self._outer = "task", 2
        else:
            return
        self._builder = ObjectBuilder()
