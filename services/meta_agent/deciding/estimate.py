"""What a task will probably cost: from what was measured, else from the route's profile.

A call is expected to cost its prompt plus a factor for the complexity times a quantile of
the completions that calls of its kind have had (facts in docs/adr/0010). No token is spent
on estimating; the exact prompt is counted by the service before it calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hma.llm.routes import Route
from hma.text.tokens import approximate_tokens
from hma.v1 import common_pb2, task_pb2
from services.meta_agent.deciding.history import ENOUGH, NOTHING_KNOWN, History, task_key
from services.meta_agent.job.state import JobFold, TaskFold

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


RESULT_TOKENS = 200
"""Size of a result whose task names no limit and has not ended."""

QUANTILE = 0.95
"""Share of the calls of a kind whose completion an expected call has room for. Below
it, a call is not started: it would too likely not end."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of one task.

    Attributes:
        calls: LLM calls, one after another.
        prompt: Prompt tokens of one call.
        completion: Completion tokens of one call, before the complexity factor.
        factor: The complexity factor.
        usual: Completion tokens of one call that the service will ask for, before the
            factor: what it is given as long as nobody else waits for tokens.
        samples: Measured calls behind it; 0: the profile alone.
        measured_prompt: Whether `prompt` was measured.
    """

    calls: int
    prompt: int
    completion: int
    factor: float
    usual: int = 0
    samples: int = 0
    measured_prompt: bool = False

    @property
    def call_tokens(self) -> int:
        """What one call is expected to cost."""
        return self.prompt + math.ceil(self.completion * self.factor)

    @property
    def first_grant(self) -> int:
        """A grant for the first call that rarely has to be asked for again."""
        completion = max(self.completion, self.usual)
        return math.ceil(self.prompt * PROMPT_HEADROOM) + math.ceil(completion * self.factor)

    @property
    def tight_grant(self) -> int:
        """A grant for the first call when others wait for tokens."""
        return math.ceil(self.prompt * PROMPT_HEADROOM) + self.call_completion

    @property
    def call_completion(self) -> int:
        """Completion tokens that one call is expected to need."""
        return math.ceil(self.completion * self.factor)

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

        A prompt that is only estimated is no reason not to try: the service counts it
        exactly, and a call that is then not covered costs nothing.
        """
        prompt = self.prompt if self.measured_prompt else self.prompt // 3
        return prompt + self.call_completion


def estimate_task(
    task: task_pb2.Task,
    route: Route,
    dependency_tokens: int = 0,
    history: History = NOTHING_KNOWN,
    items: int | None = None,
) -> Estimate:
    """Expected cost of `task` on `route`.

    Args:
        task: The task, items filled in.
        route: Its profile says how long prompts and answers are and how many
            items fit a call.
        dependency_tokens: Results of other tasks that its prompt will carry.
        history: What such calls have cost so far.
        items: How many items are still to be answered; all when None.
    """
    profile = route.profile
    items = max(1, len(task.items) if items is None else items)
    batch = max(1, min(profile.max_batch, items))
    think = profile.think_tokens if route.reasoning else 0
    usual = batch * profile.answer_tokens * KIND_ANSWERS.get(task.kind, 1) + think
    prompt = profile.prompt_tokens + approximate_tokens(task.instruction) + dependency_tokens
    record = history.record(task_key(route, task.kind, task.complexity))
    completion, samples, measured_prompt = usual, 0, False
    if record.completion.total >= ENOUGH:
        samples = int(record.completion.total)
        completion = math.ceil(batch * record.completion.quantile(QUANTILE))
        if not dependency_tokens:
            prompt = math.ceil(record.prompt.quantile(0.5))
            measured_prompt = True
    if task.max_result_tokens:
        completion = min(completion, task.max_result_tokens + think)
        usual = min(usual, task.max_result_tokens + think)
    return Estimate(
        calls=math.ceil(items / batch),
        prompt=min(prompt, max(route.context_tokens - completion, 1)),
        completion=completion,
        factor=COMPLEXITY_FACTOR.get(task.complexity, 1.0),
        usual=usual,
        samples=samples,
        measured_prompt=measured_prompt,
    )


def dependency_tokens(
    fold: JobFold, task: task_pb2.Task, by_id: Mapping[str, TaskFold] | None = None
) -> int:
    """Estimated tokens of the results that a task's prompt will carry.

    Args:
        fold: The job.
        task: One of its tasks.
        by_id: The job's tasks by id, from those who ask about many.
    """
    find = fold.task_by_id if by_id is None else by_id.get
    found = (find(name) for name in task.depends_on)
    return sum(_result_tokens(dependency) for dependency in found if dependency is not None)


def _result_tokens(task: TaskFold) -> int:
    if task.result is None:
        return task.task.max_result_tokens or RESULT_TOKENS
    return sum(approximate_tokens(item.answer) for item in task.result.items)
