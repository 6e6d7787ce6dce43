"""An attempt whose grants a test decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hma.llm.budgeted import BudgetedLLM
from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.routes import Routes
from hma.llm.settings import LlmSettings
from hma.settings import Seconds
from hma.v1 import attempt_pb2, common_pb2
from tests.scripted_llm import ScriptedLLM

Intent = attempt_pb2.CallIntent
Grants = Callable[[Intent], attempt_pb2.Grant]


def all_that_is_asked(intent: Intent) -> attempt_pb2.Grant:
    tokens = intent.prompt_tokens + intent.max_completion_tokens
    return attempt_pb2.Grant(call=intent.call, tokens=tokens)


def at_most(tokens: int) -> Grants:
    """Grants this much for a call, or denies what it does not pay for."""

    def grant(intent: Intent) -> attempt_pb2.Grant:
        if tokens < intent.prompt_tokens + intent.min_completion_tokens:
            return attempt_pb2.Grant(call=intent.call, denied=True, reason="no tokens")
        return attempt_pb2.Grant(call=intent.call, tokens=tokens)

    return grant


class GrantedAttempt:
    """The attempt side of a call, without a stream behind it."""

    def __init__(
        self,
        grants: Grants = all_that_is_asked,
        *,
        route: str = "",
        seconds: float = 120.0,
        priority: int = 0,
        first_grant: int = 0,
    ) -> None:
        self.ref = attempt_pb2.AttemptRef(job_id="job", epoch=1, task_uid="1.1", attempt=1)
        self.route = route
        self.priority = priority
        self.stop = asyncio.Event()
        self.calls: list[attempt_pb2.CallUsage] = []
        self.intents: list[Intent] = []
        self.granted: dict[int, int] = {}
        self.text = ""
        self.phases: list[str] = []
        self.usage = common_pb2.Usage()
        self._grants = grants
        self._first_grant = first_grant
        self._end = time.monotonic() + seconds

    def time_left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def held(self, call: int) -> int:
        return self._first_grant if call == 1 else 0

    async def ask(self, intent: Intent) -> attempt_pb2.Grant:
        self.intents.append(intent)
        held = self.held(intent.call)
        if intent.prompt_tokens + intent.max_completion_tokens <= held:
            grant = attempt_pb2.Grant(call=intent.call, tokens=held)
        else:
            grant = self._grants(intent)
        self.granted[intent.call] = grant.tokens
        return grant

    def progress(
        self,
        *,
        call: int = 0,
        usage: common_pb2.Usage | None = None,
        text: str = "",
        phase: str = "",
    ) -> None:
        self.text += text
        if usage is not None:
            self.usage = usage
        if phase:
            self.phases.append(phase)

    @property
    def exact(self) -> int:
        """Tokens that are known exactly."""
        return sum(map(total, (c.usage for c in self.calls if is_exact(c.usage))))

    @property
    def most(self) -> int:
        """Tokens that the attempt can have cost."""
        return sum(total(call.usage) for call in self.calls)


def profiled(routes: Routes, **changes: Any) -> Routes:
    """The same routes, whose models and servers can do something else."""
    changed = {
        name: replace(route, profile=replace(route.profile, **changes))
        for name, route in routes.items()
    }
    return Routes(changed, routes.default.name, routes.retry)


def total(usage: common_pb2.Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens


def is_exact(usage: common_pb2.Usage) -> bool:
    return usage.accuracy == common_pb2.ACCURACY_EXACT


def quick(server: ScriptedLLM, **changes: object) -> LlmSettings:
    """Settings for this server that do not make a test wait."""
    values: dict[str, object] = {
        "base_url": server.base_url,
        "backoff_initial": Seconds(0.01),
        "backoff_max": Seconds(0.05),
        "stall_timeout": Seconds(30),
        **changes,
    }
    return LlmSettings(**values)  # type: ignore[arg-type]


class Bench:
    """A scripted server, a provider for it and an attempt, put together."""

    def __init__(self, server: ScriptedLLM, **changes: object) -> None:
        self.server = server
        self.settings = quick(server, **changes)
        self.routes = server.routes(
            backoff_initial=self.settings.backoff_initial,
            backoff_max=self.settings.backoff_max,
            **{name: value for name, value in changes.items() if name != "base_url"},
        )
        self.llm = OpenAICompatible(self.settings)

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.llm.aclose()

    def budgeted(self, attempt: GrantedAttempt) -> BudgetedLLM:
        return BudgetedLLM(self.llm, self.routes, attempt)
