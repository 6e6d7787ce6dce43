"""Folds a log for those who look at a job, or end it, rather than decide about it.

A driver must not decide on half a state, so it uses `apply` and fails with it. A view of
a job that leaves an event out is better than none: its last event alone says how it ended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from hma.v1 import job_pb2
from services.meta_agent.job.apply import apply
from services.meta_agent.job.state import JobFold

_log = logging.getLogger(__name__)


def fold_what_folds(events: Iterable[job_pb2.JobEvent], fold: JobFold | None = None) -> JobFold:
    """As `fold_events`; an event that cannot be folded changes nothing but the version.

    That may be one of a later release, beside which this replica runs during an upgrade,
    or one that a defect here chokes on. It is logged.
    """
    state = fold if fold is not None else JobFold()
    for event in events:
        try:
            state = apply(state, event)
        except Exception:  # noqa: BLE001 - whatever the defect is
            _log.warning("event %s cannot be folded: left out", event.event_id, exc_info=True)
            state = replace(state, version=max(state.version, event.sequence))
    return state
