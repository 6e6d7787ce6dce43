"""Figures and names out of protobufs. Pure."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from hma.cli.view_state import Key
from hma.v1 import attempt_pb2, common_pb2


def when(stamp: Timestamp) -> float:
    """Seconds since 1970."""
    return stamp.seconds + stamp.nanos / 1e9


def tokens(usage: common_pb2.Usage) -> int:
    """Prompt plus completion."""
    return usage.prompt_tokens + usage.completion_tokens


def key_of(ref: attempt_pb2.AttemptRef) -> Key:
    """The attempt that `ref` names."""
    return ref.task_uid, ref.attempt
