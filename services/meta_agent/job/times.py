"""Times of a job: seconds since the Unix epoch, by database time, and as protobufs."""

from __future__ import annotations

import math

from google.protobuf.timestamp_pb2 import Timestamp


def seconds(timestamp: Timestamp) -> float:
    """A protobuf timestamp as seconds since the epoch."""
    return timestamp.seconds + timestamp.nanos / 1e9


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch as a protobuf timestamp, to the microsecond."""
    whole = math.floor(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e6) * 1000)
