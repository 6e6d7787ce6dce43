"""Small logs with the events that steer a job, written by hand."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.job.times import timestamp

START = 1_700_000_000.0

SUCCEEDED = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
PARTIAL = attempt_pb2.ATTEMPT_STATE_PARTIAL


def value(
    gain: float, tokens: int, items: int = 1, weight_now: float = 0.0
) -> job_pb2.ValueEstimate:
    return job_pb2.ValueEstimate(
        items=items,
        expected_weight=0.8,
        weight_now=weight_now,
        tokens=tokens,
        gain=gain,
        gain_per_1000_tokens=1000 * gain / tokens,
        probability=0.9,
        samples=12,
    )


def answers(*item_ids: str, extracts: bool = False) -> list[task_pb2.ItemAnswer]:
    origin = common_pb2.ORIGIN_EXTRACT if extracts else common_pb2.ORIGIN_MODEL
    return [
        task_pb2.ItemAnswer(item_id=name, answer="yes", grounded=not extracts, origin=origin)
        for name in item_ids
    ]


class SteeredLog:
    """A log; each method appends events, one second after what came before."""

    def __init__(self, *, items: int = 4, budget: int = 2000) -> None:
        self.events: list[job_pb2.JobEvent] = []
        self.now = START
        names = [f"q{n}" for n in range(1, items + 1)]
        created = job_pb2.JobCreated(
            tenant="default",
            task_description="Answer.",
            items=[task_pb2.Item(item_id=name, text=f"{name}?") for name in names],
            budget=job_pb2.Budget(max_tokens=budget),
            deadline_time=timestamp(START + 600),
        )
        self.say(job_created=created)
        self.say(job_claimed=job_pb2.JobClaimed(replica="r", epoch=1))

    def say(self, after: float = 1.0, **payload: object) -> None:
        event = job_pb2.JobEvent(**payload)  # type: ignore[arg-type]
        event.job_id = "job-1"
        event.sequence = len(self.events) + 1
        event.event_id = f"e{event.sequence}"
        event.time.CopyFrom(timestamp(self.now))
        self.events.append(event)
        self.now += after

    def shape(self, reason: str = "batching hurts", team: bool = True) -> None:
        self.say(
            shape_decided=job_pb2.ShapeDecided(
                shape=job_pb2.JOB_SHAPE_TEAM if team else job_pb2.JOB_SHAPE_SINGLE,
                reason=reason,
                predicted_single_tokens=2442,
                predicted_team_tokens=2244,
                route="fast",
                reserved_tokens=100,
            )
        )

    def admit(
        self,
        uid: str,
        name: str,
        *item_ids: str,
        allotted: int = 200,
        worth: job_pb2.ValueEstimate | None = None,
        after: tuple[str, ...] = (),
    ) -> None:
        task = task_pb2.Task(
            id=name,
            title=f"title of {name}",
            depends_on=after,
            items=[task_pb2.Item(item_id=i, text=i) for i in item_ids],
            kind=common_pb2.TASK_KIND_ANSWER,
        )
        self.say(
            task_admitted=job_pb2.TaskAdmitted(
                task_uid=uid,
                task=task,
                allotted_tokens=allotted,
                expected_prompt_tokens=150,
                expected_completion_tokens=30,
                value=worth,
            )
        )

    def close(self, tasks: int) -> None:
        source = attempt_pb2.PLAN_SOURCE_MODEL
        self.say(plan_closed=job_pb2.PlanClosed(source=source, tasks=tasks))

    @staticmethod
    def ref(uid: str, attempt: int = 1) -> attempt_pb2.AttemptRef:
        return attempt_pb2.AttemptRef(job_id="job-1", epoch=1, task_uid=uid, attempt=attempt)

    def start(self, uid: str, attempt: int = 1, *, route: str = "fast", grant: int = 200) -> None:
        role = {"p": common_pb2.ROLE_ANALYST, "r": common_pb2.ROLE_REDUCER}.get(
            uid[0], common_pb2.ROLE_WORKER
        )
        self.say(
            attempt_started=job_pb2.AttemptStarted(
                ref=self.ref(uid, attempt),
                role=role,
                route=route,
                grant=attempt_pb2.Grant(call=1, tokens=grant),
                deadline_time=timestamp(self.now + 60),
                route_reason=f"{route} suits it",
            )
        )

    @staticmethod
    def call(
        number: int, prompt: int, completion: int, *, reask: bool = False
    ) -> attempt_pb2.CallUsage:
        work, again = attempt_pb2.CALL_PURPOSE_WORK, attempt_pb2.CALL_PURPOSE_REASK
        usage = common_pb2.Usage(
            prompt_tokens=prompt, cached_prompt_tokens=prompt // 2, completion_tokens=completion
        )
        return attempt_pb2.CallUsage(
            call=number, purpose=again if reask else work, route="fast", usage=usage
        )

    def result(
        self,
        *calls: attempt_pb2.CallUsage,
        items: list[task_pb2.ItemAnswer] | None = None,
        state: attempt_pb2.AttemptState.ValueType = SUCCEEDED,
        answer: task_pb2.Answer | None = None,
    ) -> attempt_pb2.AttemptResult:
        result = attempt_pb2.AttemptResult(state=state, calls=calls)
        if answer is not None:
            result.answer.CopyFrom(answer)
        elif items is not None:
            result.task.items.extend(items)
        return result

    def finish(
        self, uid: str, attempt: int = 1, *calls: attempt_pb2.CallUsage, **what: object
    ) -> None:
        result = self.result(*calls, **what)  # type: ignore[arg-type]
        costs = [0.001 for _ in calls]
        ref = self.ref(uid, attempt)
        self.say(attempt_finished=job_pb2.AttemptFinished(ref=ref, result=result, costs=costs))

    def report(
        self, uid: str, attempt: int = 1, *calls: attempt_pb2.CallUsage, **what: object
    ) -> None:
        result = self.result(*calls, **what)  # type: ignore[arg-type]
        ref = self.ref(uid, attempt)
        self.say(attempt_reported=job_pb2.AttemptReported(ref=ref, result=result))

    def lose(
        self, uid: str, tokens: int, attempt: int = 1, reason: str = "its stream broke"
    ) -> None:
        self.say(
            attempt_lost=job_pb2.AttemptLost(
                ref=self.ref(uid, attempt), unknown_tokens=tokens, reason=reason
            )
        )

    def move(
        self,
        tokens: int,
        giver: str = "",
        getter: str = "",
        reason: str = "it can use more",
        worth: job_pb2.ValueEstimate | None = None,
    ) -> None:
        self.say(
            tokens_moved=job_pb2.TokensMoved(
                from_task_uid=giver,
                to_task_uid=getter,
                tokens=tokens,
                reason=reason,
                estimate=worth,
                pool_tokens=500,
            )
        )

    def stop(
        self,
        uid: str,
        cause: job_pb2.InterruptCause.ValueType = job_pb2.INTERRUPT_CAUSE_UNSPECIFIED,
        *,
        note: str = "",
        after: float = 1.0,
        elapsed: float = 0.0,
        expected: float = 0.0,
        waiting: int = 0,
    ) -> None:
        stopped = job_pb2.AttemptStopped(
            ref=self.ref(uid),
            reason=attempt_pb2.STOP_REASON_INTERRUPT,
            cause=cause,
            note=note,
            waiting_tasks=waiting,
        )
        if elapsed:
            stopped.elapsed.CopyFrom(Duration(seconds=int(elapsed)))
            stopped.expected.CopyFrom(Duration(seconds=int(expected)))
        self.say(after, attempt_stopped=stopped)

    def settle(
        self,
        uid: str,
        state: job_pb2.TaskState.ValueType = job_pb2.TASK_STATE_SUCCEEDED,
        *,
        refund: int = 0,
        gains: tuple[float, float] = (0.0, 0.0),
        failure: str = "",
        failure_class: common_pb2.FailureClass.ValueType = common_pb2.FAILURE_CLASS_BUDGET,
    ) -> None:
        why = common_pb2.Failure(failure_class=failure_class, message=failure) if failure else None
        self.say(
            task_settled=job_pb2.TaskSettled(
                task_uid=uid,
                state=state,
                failure=why,
                refunded_tokens=refund,
                predicted_gain=gains[0],
                realised_gain=gains[1],
            )
        )

    def trim(self, needed: int, available: int, *tasks: job_pb2.Trimmed) -> None:
        self.say(
            plan_trimmed=job_pb2.PlanTrimmed(
                needed_tokens=needed, available_tokens=available, tasks=tasks
            )
        )

    def end(
        self,
        state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_SUCCEEDED,
        reason: str = "everything that was asked is answered",
        *,
        answer: task_pb2.Answer | None = None,
        outcome: tuple[int, int] | None = None,
        worth: job_pb2.ValueEstimate | None = None,
    ) -> None:
        finished = job_pb2.JobFinished(
            state=state, reason=reason, answer=answer, next_1000_tokens=worth
        )
        if outcome is not None:
            predicted, actual = outcome
            finished.shape_outcome.CopyFrom(
                job_pb2.ShapeOutcome(
                    shape=job_pb2.JOB_SHAPE_TEAM,
                    predicted_tokens=predicted,
                    actual_tokens=actual,
                    error_percent=100 * (actual - predicted) / predicted,
                )
            )
        self.say(job_finished=finished)
