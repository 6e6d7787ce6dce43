"""A valid request, for tests to break in one place."""

from __future__ import annotations

from typing import Any

from hma.llm.prices import Prices
from hma.llm.profiles import PRESETS
from hma.llm.routes import Route, Routes
from hma.v1 import job_pb2, meta_agent_pb2, task_pb2
from services.meta_agent.edge.admission import Admission
from services.meta_agent.edge.limits import Limits
from services.meta_agent.edge.validation import Validator


def routes() -> Routes:
    fast = Route(
        name="fast",
        base_url="http://127.0.0.1:1/v1",
        model="m",
        profile=PRESETS["smollm2"],
        prices=Prices(prompt=1.0, cached_prompt=0.1, completion=2.0),
    )
    return Routes({"fast": fast}, "fast")


def validator(**changes: Any) -> Validator:
    return Validator(Limits(**changes), ("fast", "reasoning"))


def admission() -> Admission:
    return Admission(routes=routes(), default_deadline=600, max_attempts=3)


def document(name: str = "a.md", text: str = "# A\n\nThe port is 8080.\n") -> job_pb2.DocumentInput:
    return job_pb2.DocumentInput(name=name, text=text)


def task(task_id: str, *after: str, **fields: object) -> task_pb2.Task:
    values: dict[str, object] = {"instruction": "Do it.", **fields}
    return task_pb2.Task(id=task_id, depends_on=after, **values)  # type: ignore[arg-type]


def create_request(
    *tasks: task_pb2.Task, documents: list[job_pb2.DocumentInput] | None = None
) -> meta_agent_pb2.CreateJobRequest:
    spec = job_pb2.JobSpec(
        task_description="Which port is it?",
        documents=[document()] if documents is None else documents,
        total_budget_tokens=2000,
    )
    if tasks:
        spec.plan.tasks.extend(tasks)
    return meta_agent_pb2.CreateJobRequest(job=spec)
