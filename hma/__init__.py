"""HMA: teams of LLM agents under a hard token budget.

    import hma

    with hma.Client("localhost:8080") as client:
        job = client.run("Which port does the gateway use?", documents=["README.md"], budget=2000)
        print(job.answer.text)

`import hma` loads nothing else: each name below is imported when it is first used,
and the client needs grpcio, protobuf and googleapis-common-protos only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hma import errors as errors
    from hma.client import AsyncClient as AsyncClient
    from hma.client import Client as Client
    from hma.errors import HmaError as HmaError
    from hma.v1.common_pb2 import Complexity as Complexity
    from hma.v1.common_pb2 import TaskKind as TaskKind
    from hma.v1.job_pb2 import Job as Job
    from hma.v1.job_pb2 import JobEvent as JobEvent
    from hma.v1.job_pb2 import JobPolicy as JobPolicy
    from hma.v1.job_pb2 import JobProgress as JobProgress
    from hma.v1.job_pb2 import JobState as JobState
    from hma.v1.job_pb2 import TaskState as TaskState
    from hma.v1.meta_agent_pb2 import SystemStatus as SystemStatus
    from hma.v1.meta_agent_pb2 import WatchJobResponse as WatchJobResponse
    from hma.v1.task_pb2 import Plan as Plan
    from hma.v1.task_pb2 import Task as Task

__version__ = "0.1.0"

_HOME = {
    "AsyncClient": "hma.client",
    "Client": "hma.client",
    "Complexity": "hma.v1.common_pb2",
    "HmaError": "hma.errors",
    "Job": "hma.v1.job_pb2",
    "JobEvent": "hma.v1.job_pb2",
    "JobPolicy": "hma.v1.job_pb2",
    "JobProgress": "hma.v1.job_pb2",
    "JobState": "hma.v1.job_pb2",
    "Plan": "hma.v1.task_pb2",
    "SystemStatus": "hma.v1.meta_agent_pb2",
    "Task": "hma.v1.task_pb2",
    "TaskKind": "hma.v1.common_pb2",
    "TaskState": "hma.v1.job_pb2",
    "WatchJobResponse": "hma.v1.meta_agent_pb2",
}

__all__ = [
    "AsyncClient",
    "Client",
    "Complexity",
    "HmaError",
    "Job",
    "JobEvent",
    "JobPolicy",
    "JobProgress",
    "JobState",
    "Plan",
    "SystemStatus",
    "Task",
    "TaskKind",
    "TaskState",
    "WatchJobResponse",
    "__version__",
    "errors",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("hma.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'hma' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
