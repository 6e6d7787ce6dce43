"""The Python client: `Client` for plain code, `AsyncClient` for asyncio.

Needs grpcio, protobuf and googleapis-common-protos, nothing else of HMA's
dependencies; a test runs it with everything else blocked.
"""

from hma.client.aio import AsyncClient
from hma.client.backoff import Backoff
from hma.client.blocking import Client
from hma.client.credentials import KeyWarning
from hma.client.periods import MomentLike, UsageBy
from hma.client.requests import DocumentLike, DurationLike, JobOptions, Shape

__all__ = [
    "AsyncClient",
    "Backoff",
    "Client",
    "DocumentLike",
    "DurationLike",
    "JobOptions",
    "KeyWarning",
    "MomentLike",
    "Shape",
    "UsageBy",
]
