"""Logs of jobs as a MetaAgent would write them, for scripts and for tests of the view.

A log is built by simulating the job: a plan, a few workers at a time, a reduce. The
figures hold together: what is granted is settled, and the ledger is the sum of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from tests.integration.client.log_steps import Log, Step, span, stamp


@dataclass(frozen=True)
class Team:
    """A job done by a team.

    Attributes:
        tasks: How many tasks.
        workers: How many run at once.
        failing: Numbers (from 1) of tasks that fail.
        lost: Numbers of tasks whose first attempt is lost with its worker.
        seconds: How long one task takes.
        budget: Tokens.
        answer: What the reducer writes.
    """

    tasks: int = 8
    workers: int = 2
    failing: Sequence[int] = ()
    lost: Sequence[int] = ()
    seconds: float = 2.0
    budget: int = 5000
    answer: str = "The gateway listens on **8080**, the MetaAgent on **50051**."
    job_id: str = "job-01k0scripted0000000000000"
    description: str = "Answer the questions from the documents."
    progress_every: float = 0.25

    def steps(self) -> list[Step]:
        """The whole life of the job."""
        return _Simulation(self).steps()

    def named(self, job_id: str, description: str) -> Team:
        """The same team on another job."""
        return replace(self, job_id=job_id, description=description)


class _Simulation:
    def __init__(self, team: Team) -> None:
        self.team = team
        self.log = Log(team.job_id)
        self.rows: list[job_pb2.LedgerRow] = []
        self.timings: list[common_pb2.AgentTiming] = []
        self.reserved = 400
        self.unknown = 0

    def steps(self) -> list[Step]:
        end = self.plan()
        end = self.work(end)
        self.reduce(end)
        return self.log.steps(self.team.budget, self.reserved)

    def ledger(self) -> job_pb2.Ledger:
        usages = [row.call.usage for row in self.rows]
        prompt = sum(usage.prompt_tokens for usage in usages)
        completion = sum(usage.completion_tokens for usage in usages)
        return job_pb2.Ledger(
            budget_tokens=self.team.budget,
            spent_tokens=prompt + completion,
            unknown_tokens=self.unknown,
            prompt_tokens=prompt,
            cached_prompt_tokens=sum(usage.cached_prompt_tokens for usage in usages),
            completion_tokens=completion,
            cost=round((prompt + completion) * 2e-7, 7),
        )

    def plan(self) -> float:
        team, log = self.team, self.log
        refs = [task_pb2.DocumentRef(document_id="d1", name="README.md", approximate_tokens=900)]
        items = [
            task_pb2.Item(item_id=f"q{n}", text=f"Question {n}?") for n in range(1, team.tasks + 1)
        ]
        budget = job_pb2.Budget(max_tokens=team.budget, deadline=span(120))
        log.event(
            0.0,
            job_created=job_pb2.JobCreated(
                tenant="default",
                task_description=team.description,
                documents=refs,
                items=items,
                budget=budget,
                policy=job_pb2.JobPolicy(shape=job_pb2.JOB_SHAPE_AUTO),
                deadline_time=stamp(120),
            ),
        )
        log.event(0.02, job_claimed=job_pb2.JobClaimed(replica="replica-a", epoch=1))
        self.state(0.03, job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_PLANNING, "making a plan")
        log.event(
            0.04,
            shape_decided=job_pb2.ShapeDecided(
                shape=job_pb2.JOB_SHAPE_TEAM,
                reason="batching hurts on this route, so one agent a question",
                predicted_single_tokens=2600,
                predicted_team_tokens=1900,
                items=team.tasks,
                document_tokens=900,
                route="fast",
                reserved_tokens=self.reserved,
            ),
        )
        call = self.attempt(0.05, "p.1", common_pb2.ROLE_ANALYST, "plan", 300, 0.6, -1)
        log.event(
            0.4,
            brief_written=job_pb2.BriefWritten(
                brief=task_pb2.Brief(objective="Answer each question from the README.")
            ),
        )
        for number in range(1, team.tasks + 1):
            log.event(
                0.4 + number * 0.2 / team.tasks,
                task_admitted=job_pb2.TaskAdmitted(
                    task_uid=f"1.{number}",
                    task=task_pb2.Task(
                        id=f"t{number}",
                        title=f"Answer question {number}",
                        instruction=f"Question {number}?",
                        documents=["d1"],
                        complexity=common_pb2.COMPLEXITY_LOW,
                        items=[items[number - 1]],
                    ),
                    allotted_tokens=250,
                    layer_id=0,
                    source=attempt_pb2.PLAN_SOURCE_MODEL,
                ),
            )
        self.finish(0.65, call, attempt_pb2.ATTEMPT_STATE_SUCCEEDED)
        log.event(
            0.66,
            plan_closed=job_pb2.PlanClosed(source=attempt_pb2.PLAN_SOURCE_MODEL, tasks=team.tasks),
        )
        self.state(0.67, job_pb2.JOB_STATE_PLANNING, job_pb2.JOB_STATE_RUNNING, "tasks run")
        return 0.7

    def work(self, start: float) -> float:
        team = self.team
        free = [start] * team.workers
        for number in range(1, team.tasks + 1):
            at = min(free)
            slot = free.index(at)
            length = team.seconds * (0.6 + 0.8 * (number % 3) / 2)
            uid, name = f"1.{number}", f"t{number}"
            if number in team.lost:
                call = self.attempt(at, uid, common_pb2.ROLE_WORKER, name, 200, length, 0)
                self.lose(at + length, call)
                at += length + 0.3
                call = self.attempt(at, uid, common_pb2.ROLE_WORKER, name, 200, length, 0, 2)
            else:
                call = self.attempt(at, uid, common_pb2.ROLE_WORKER, name, 200, length, 0)
            failed = number in team.failing
            done = at + length
            self.finish(
                done,
                call,
                attempt_pb2.ATTEMPT_STATE_FAILED if failed else attempt_pb2.ATTEMPT_STATE_SUCCEEDED,
            )
            settled = job_pb2.TaskSettled(
                task_uid=uid,
                state=job_pb2.TASK_STATE_FAILED if failed else job_pb2.TASK_STATE_SUCCEEDED,
                refunded_tokens=50,
            )
            if failed:
                settled.failure.CopyFrom(_failure())
            self.log.event(done + 0.01, task_settled=settled)
            free[slot] = done + 0.02
        return max(free)

    def reduce(self, start: float) -> None:
        team = self.team
        self.state(
            start, job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_REDUCING, "making the answer"
        )
        call = self.attempt(
            start + 0.02, "r.1", common_pb2.ROLE_REDUCER, "reduce", 400, 1.0, -1, text=team.answer
        )
        self.finish(start + 1.1, call, attempt_pb2.ATTEMPT_STATE_SUCCEEDED)
        self.log.event(start + 1.2, job_finished=self.finished(start + 1.2))

    def finished(self, at: float) -> job_pb2.JobFinished:
        team = self.team
        missing = [
            task_pb2.Missing(
                item_id=f"q{number}",
                reason="its worker broke the output schema twice",
                failure_class=common_pb2.FAILURE_CLASS_INVALID_OUTPUT,
            )
            for number in team.failing
        ]
        ledger = self.ledger()
        ledger.rows.extend(self.rows)
        work = sum(timing.duration.ToNanoseconds() for timing in self.timings) / 1e9
        return job_pb2.JobFinished(
            state=job_pb2.JOB_STATE_PARTIAL if missing else job_pb2.JOB_STATE_SUCCEEDED,
            reason=f"{len(missing)} items missing" if missing else "every item is answered",
            answer=task_pb2.Answer(
                text=team.answer,
                confidence=0.8,
                missing=missing,
                items=[
                    task_pb2.ItemAnswer(
                        item_id=f"q{number}",
                        answer=f"answer {number}",
                        grounded=True,
                        origin=common_pb2.ORIGIN_MODEL,
                    )
                    for number in range(1, team.tasks + 1)
                    if number not in team.failing
                ],
                sources=[
                    task_pb2.Source(document_id="d1", name="README.md", quote="listens on 8080")
                ],
                origin=common_pb2.ORIGIN_MODEL,
            ),
            ledger=ledger,
            agent_timings=self.timings,
            layer_barriers=[
                common_pb2.LayerBarrier(
                    layer_id=0,
                    agents=[f"t{n}" for n in range(1, team.tasks + 1)],
                    wait_time=span(1.5),
                )
            ],
            concurrency=[
                common_pb2.Concurrency(
                    layer_id=-1,
                    time_saved_percent=max(0.0, 100 * (1 - at / work)),
                    pairwise_overlap_percent=38.5,
                    wall=span(at),
                    work=span(work),
                )
            ],
            critical_path=["plan", f"t{team.tasks}", "reduce"],
        )

    def state(
        self,
        at: float,
        before: job_pb2.JobState.ValueType,
        after: job_pb2.JobState.ValueType,
        reason: str,
    ) -> None:
        change = job_pb2.StateChanged(to=after, reason=reason, **{"from": before})
        self.log.event(at, state_changed=change)

    def attempt(
        self,
        at: float,
        uid: str,
        role: common_pb2.Role.ValueType,
        task_id: str,
        grant: int,
        length: float,
        layer: int,
        number: int = 1,
        text: str = "",
    ) -> _Call:
        ref = attempt_pb2.AttemptRef(job_id=self.team.job_id, epoch=1, task_uid=uid, attempt=number)
        self.log.event(
            at,
            attempt_started=job_pb2.AttemptStarted(
                ref=ref,
                role=role,
                route="fast",
                grant=attempt_pb2.Grant(call=1, tokens=grant),
                deadline_time=stamp(at + 60),
                route_reason="complexity low",
            ),
        )
        call = _Call(ref, role, task_id, at, length, grant, layer)
        self.stream(call, text or f'{{"items": [{{"id": "q1", "answer": "of {task_id}"}}]}}')
        return call

    def stream(self, call: _Call, text: str) -> None:
        parts = max(1, int(call.length / self.team.progress_every))
        for part in range(parts):
            shown = len(text) * part // parts
            upto = len(text) * (part + 1) // parts
            self.log.progress(
                call.start + call.length * (part + 0.5) / parts,
                job_pb2.RunningAttempt(
                    ref=call.ref,
                    task_id=call.task_id,
                    role=call.role,
                    route="fast",
                    usage=common_pb2.Usage(prompt_tokens=100, completion_tokens=part),
                    offset=shown,
                    text=text[shown:upto],
                    phase="writing",
                ),
            )

    def finish(self, at: float, call: _Call, state: attempt_pb2.AttemptState.ValueType) -> None:
        usage = attempt_pb2.CallUsage(
            call=1,
            purpose=_PURPOSE[call.role],
            route="fast",
            model="scripted",
            usage=common_pb2.Usage(
                prompt_tokens=call.grant // 2,
                cached_prompt_tokens=call.grant // 5,
                completion_tokens=call.grant // 4,
                accuracy=common_pb2.ACCURACY_EXACT,
            ),
            start=stamp(call.start),
            duration=span(at - call.start),
            time_to_first_token=span(0.1),
            finish_reason="stop",
            max_tokens=call.grant,
        )
        result = attempt_pb2.AttemptResult(state=state, calls=[usage])
        if state == attempt_pb2.ATTEMPT_STATE_FAILED:
            result.failure.CopyFrom(_failure())
        # Half of the calls settle on their own, the others with the result.
        if len(self.rows) % 2:
            self.log.event(at - 0.01, call_settled=job_pb2.CallSettled(ref=call.ref, call=usage))
        self.log.event(at, attempt_finished=job_pb2.AttemptFinished(ref=call.ref, result=result))
        self.rows.append(
            job_pb2.LedgerRow(
                task_uid=call.ref.task_uid,
                attempt=call.ref.attempt,
                role=call.role,
                call=usage,
                cost=round(call.grant * 1.5e-7, 8),
            )
        )
        self.timings.append(
            common_pb2.AgentTiming(
                task_id=call.task_id,
                role=call.role,
                start=stamp(call.start),
                end=stamp(at),
                duration=span(at - call.start),
                layer_id=call.layer,
            )
        )

    def lose(self, at: float, call: _Call) -> None:
        self.log.event(
            at,
            attempt_lost=job_pb2.AttemptLost(
                ref=call.ref, unknown_tokens=call.grant, reason="its worker is gone"
            ),
        )
        self.unknown += call.grant


@dataclass(frozen=True)
class _Call:
    ref: attempt_pb2.AttemptRef
    role: common_pb2.Role.ValueType
    task_id: str
    start: float
    length: float
    grant: int
    layer: int


_PURPOSE = {
    common_pb2.ROLE_ANALYST: attempt_pb2.CALL_PURPOSE_PLAN,
    common_pb2.ROLE_WORKER: attempt_pb2.CALL_PURPOSE_WORK,
    common_pb2.ROLE_REDUCER: attempt_pb2.CALL_PURPOSE_REDUCE,
}


def _failure() -> common_pb2.Failure:
    return common_pb2.Failure(
        failure_class=common_pb2.FAILURE_CLASS_INVALID_OUTPUT,
        message="the output broke its schema twice",
        role=common_pb2.ROLE_WORKER,
    )
