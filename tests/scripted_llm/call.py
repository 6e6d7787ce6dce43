"""What the scripted server remembers of a request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """One chat completion that the server was asked for.

    Attributes:
        number: From 1, in order of arrival.
        body: The request's JSON.
        headers: The request's headers.
        prompt: The rendered prompt.
        prompt_tokens: Counted when generation starts; 0 for refused requests.
        cached_tokens: The part of them that hit the prefix cache.
        completion_tokens: Tokens generated, aborted calls included.
        reasoning_tokens: The part of them that was reasoning.
        text: The completion so far.
        state: "running", "done", "aborted" (the client left), "refused" or "broken"
            (by the script).
        status: HTTP status.
        start: `time.monotonic()` of arrival.
        end: When it ended or generation stopped; None while it runs.
    """

    number: int
    body: dict[str, Any]
    headers: dict[str, str]
    prompt: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    text: str = ""
    state: str = "running"
    status: int = 200
    start: float = field(default_factory=time.monotonic)
    end: float | None = None

    @property
    def purpose(self) -> str:
        """What HMA says the call is for."""
        return self.headers.get("x-hma-purpose", "")

    @property
    def max_tokens(self) -> int:
        """The limit that the client set."""
        limit = self.body.get("max_completion_tokens", self.body.get("max_tokens"))
        return int(limit) if limit is not None else 1 << 20

    @property
    def total_tokens(self) -> int:
        """What the server counted for this call."""
        return self.prompt_tokens + self.completion_tokens
