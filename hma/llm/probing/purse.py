"""The probe's own budget and deadline: grants what is left, and never more."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from hma.v1 import attempt_pb2, common_pb2

_JOB = "probe"


@dataclass(slots=True)
class Purse:
    """What a probe may spend. Spent + held never exceeds the budget.

    Attributes:
        budget: Tokens, prompt and completion.
        deadline: When the probe must have ended, by the monotonic clock.
        spent: Tokens of calls that have ended, each at its upper bound if not exact.
        held: Most tokens that running calls can still cost.
        calls: Calls that were granted.
    """

    budget: int
    deadline: float
    spent: int = 0
    held: int = 0
    calls: int = 0

    @property
    def left(self) -> int:
        """Tokens that a call may cost now."""
        return self.budget - self.spent - self.held

    def time_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def refusal(self, least: int) -> str:
        """Why a call that costs at least so many tokens cannot be made; empty: it can."""
        if self.time_left() <= 0:
            return "the probe's time is over; give it more with --deadline"
        if least > self.left:
            return f"the probe has {max(self.left, 0):,} tokens left; give it more with --budget"
        return ""


@dataclass(slots=True)
class ProbeAttempt:
    """One call of the probe and its tries; what `BudgetedLLM` asks for grants.

    Attributes:
        purse: Pays.
        name: For the server's log.
        stop: Never set: a probe ends by its deadline.
        calls: What its tries cost.
    """

    purse: Purse
    name: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[attempt_pb2.CallUsage] = field(default_factory=list)
    _held: int = 0
    _settled: int = 0

    @property
    def ref(self) -> attempt_pb2.AttemptRef:
        """Which attempt this is."""
        return attempt_pb2.AttemptRef(job_id=_JOB, task_uid=self.name, attempt=1)

    @property
    def route(self) -> str:
        """The only one that its `Routes` have."""
        return ""

    @property
    def priority(self) -> int:
        """A probe is nothing special."""
        return 0

    def time_left(self) -> float:
        """Seconds until the probe must have ended."""
        return max(0.0, self.purse.time_left())

    def held(self, call: int) -> int:
        """Every call asks first."""
        return 0

    async def ask(self, intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        """Grants a call what it asks for, or what is left."""
        self.settle()
        least = intent.prompt_tokens + intent.min_completion_tokens
        refusal = self.purse.refusal(least)
        if refusal:
            return attempt_pb2.Grant(call=intent.call, denied=True, reason=refusal)
        most = intent.prompt_tokens + intent.max_completion_tokens
        self._held = min(most, self.purse.left)
        self.purse.held += self._held
        self.purse.calls += 1
        return attempt_pb2.Grant(call=intent.call, tokens=self._held)

    def settle(self) -> None:
        """Books what has ended; afterwards nothing is held for this attempt."""
        for row in self.calls[self._settled :]:
            self.purse.spent += row.usage.prompt_tokens + row.usage.completion_tokens
        self._settled = len(self.calls)
        self.purse.held -= self._held
        self._held = 0

    def progress(
        self,
        *,
        call: int = 0,
        usage: common_pb2.Usage | None = None,
        text: str = "",
        phase: str = "",
    ) -> None:
        """Nobody watches a single call."""
