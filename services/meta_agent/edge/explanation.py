"""Why a job went as it did: a pure function of its log.

    explanation = explain(events, rules)

    story = Story()              # the same for a log that is read by pages
    story.take(page)
    explanation = explanation_of(story, rules)

All comes from the log's events, so the same log gives the same explanation on every
replica. The parts are in `edge.explaining`: the story keeps what explains, accounts
say where the tokens went, movements what moved, stopped and was dropped, and
sentences tell it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hma.v1 import explanation_pb2, job_pb2
from services.meta_agent.deciding.receipt import ledger_of
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.edge.explaining.accounts import accounts
from services.meta_agent.edge.explaining.movements import (
    dropped,
    interruptions,
    movements,
    next_thousand,
)
from services.meta_agent.edge.explaining.sentences import sentences
from services.meta_agent.edge.explaining.story import Story


def explain(events: Iterable[job_pb2.JobEvent], rules: Rules) -> explanation_pb2.Explanation:
    """Explains a job, ended or not.

    Args:
        events: Its log, from the first event on.
        rules: For what is held back while the job runs.
    """
    story = Story()
    story.take(events)
    return explanation_of(story, rules)


def explanation_of(story: Story, rules: Rules) -> explanation_pb2.Explanation:
    """The explanation of what a story has taken so far."""
    fold = story.fold
    finished = fold.finished
    outcome = finished.shape_outcome if finished and finished.HasField("shape_outcome") else None
    return explanation_pb2.Explanation(
        job_id=fold.job_id,
        state=fold.state,
        sentences=sentences(story, rules),
        ledger=ledger_of(fold, rules, settled=fold.ended),
        accounts=accounts(story),
        movements=movements(story),
        interruptions=interruptions(story),
        dropped=dropped(story).values(),
        shape=fold.shape,
        shape_outcome=outcome,
        rounds=story.rounds,
        next_1000_tokens=next_thousand(story, rules),
    )
