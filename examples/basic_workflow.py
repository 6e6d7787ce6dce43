"""One job with a plan of its own, followed while it runs. Needs a stack: `make up`.

    python examples/basic_workflow.py [README.md …]

The plan has two independent tasks and one that needs both; the server is HMA_SERVER, or
localhost:8080.
"""

from __future__ import annotations

import sys

import hma

PLAN = {
    "tasks": [
        {"id": "what", "instruction": "What does this project do?", "critical": True},
        {"id": "how", "instruction": "How is it started?"},
        {
            "id": "pitch",
            "instruction": "Write two sentences that make a newcomer try it.",
            "kind": "TASK_KIND_WRITE",
            "depends_on": ["what", "how"],
        },
    ]
}


def main(documents: list[str]) -> int:
    with hma.Client() as client:
        job_id = client.submit(
            "Introduce this project to a newcomer.",
            documents=documents,
            budget=6000,
            deadline="2m",
            plan=PLAN,
        )
        # The log so far, then live, until the job has ended. If the connection breaks,
        # the client resumes behind the last event, so nothing comes twice.
        for update in client.watch(job_id, events_only=True):
            print(f"{update.event.sequence:3}  {update.event.WhichOneof('payload')}")

        job = client.get(job_id)
        print(f"\n{hma.JobState.Name(job.state)}: {job.state_reason}\n\n{job.answer.text}\n")
        for task in job.tasks:
            state = hma.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower()
            print(f"{task.task.id:8} {state:10} {task.spent_tokens:5} tokens")
        print(f"{'all':8} {'':10} {job.ledger.spent_tokens:5} of {job.ledger.budget_tokens}")
        return 0 if job.HasField("answer") else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["README.md"]))
