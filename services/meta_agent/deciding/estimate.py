"""What a task will probably cost, from the route's profile. No token is spent on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hma.llm.routes import Route
from hma.text.tokens import approximate_tokens
from hma.v1 import common_pb2, task_pb2

COMPLEXITY_FACTOR = {
    common_pb2.COMPLEXITY_UNSPECIFIED: 1.0,
    common_pb2.COMPLEXITY_LOW: 0.8,
    common_pb2.COMPLEXITY_MEDIUM: 1.0,
    common_pb2.COMPLEXITY_HIGH: 1.5,
}
"""Scales the expected completion, never the prompt: a LOW task must still be able
to read its own prompt."""

KIND_ANSWERS = {
    common_pb2.TASK_KIND_UNSPECIFIED: 1,
    common_pb2.TASK_KIND_ANSWER: 1,
    common_pb2.TASK_KIND_EXTRACT: 2,
    common_pb2.TASK_KIND_SUMMARIZE: 4,
    common_pb2.TASK_KIND_WRITE: 8,
}
"""How many typical answers an item of each kind is long."""

PROMPT_HEADROOM = 1.2
"""A first grant is this much above the expected prompt, so that it rarely has to
be asked for again. What is left over returns when the call has settled."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of one task.

    Attributes:
        calls: LLM calls, one after another.
        prompt: Prompt tokens of one call.
        completion: Completion tokens of one call, before the complexity factor.
        factor: The complexity factor.
    """

    calls: int
    prompt: int
    completion: int
    factor: float

    @property
    def call_tokens(self) -> int:
        """What one call is expected to cost."""
        return self.prompt + math.ceil(self.completion * self.factor)

    @property
    def first_grant(self) -> int:
        """A grant for the first call that rarely has to be asked for again."""
        return math.ceil(self.prompt * PROMPT_HEADROOM) + math.ceil(self.completion * self.factor)

    @property
    def total(self) -> int:
        """What the task is expected to cost."""
        return self.calls * self.call_tokens

    @property
    def minimum(self) -> int:
        """The least that is expected to let it do anything: one call."""
        return self.call_tokens

    @property
    def floor(self) -> int:
        """Below this, trying is hopeless.

        The prompt is only estimated here; the service counts it exactly, and a call
        that is then not covered costs nothing. So a shortfall in the estimate is
        no reason not to try.
        """
        return self.prompt // 3 + math.ceil(self.completion * self.factor)


def estimate_task(task: task_pb2.Task, route: Route, dependency_tokens: int = 0) -> Estimate:
    """Expected cost of `task` on `route`.

    Args:
        task: The task, items filled in.
        route: Its profile says how long prompts and answers are and how many
            items fit a call.
        dependency_tokens: Results of other tasks that its prompt will carry.
    """
    profile = route.profile
    items = max(1, len(task.items))
    batch = max(1, min(profile.max_batch, items))
    answer = profile.answer_tokens * KIND_ANSWERS.get(task.kind, 1)
    completion = batch * answer + (profile.think_tokens if route.reasoning else 0)
    if task.max_result_tokens:
        completion = min(completion, task.max_result_tokens)
    prompt = profile.prompt_tokens + approximate_tokens(task.instruction) + dependency_tokens
    return Estimate(
        calls=math.ceil(items / batch),
        prompt=min(prompt, max(route.context_tokens - completion, 1)),
        completion=completion,
        factor=COMPLEXITY_FACTOR.get(task.complexity, 1.0),
    )
