"""Golden logs as files: `NAME.binpb` (JobEvents, each after its length) and `NAME.json`."""

from __future__ import annotations

import dataclasses
import enum
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed

from hma.v1 import job_pb2
from services.meta_agent.job.apply import fold_events
from services.meta_agent.job.state import JobFold

GOLDEN = Path(__file__).parents[1] / "data" / "golden"

_COPIED = ("created", "finished")
"""Fields that hold an event as it is: nothing of them is computed."""


def write_log(directory: Path, name: str, events: Sequence[job_pb2.JobEvent]) -> None:
    """Writes a log and the state that this release folds it to."""
    file = io.BytesIO()
    for event in events:
        serialize_length_prefixed(event, file)
    (directory / f"{name}.binpb").write_bytes(file.getvalue())
    state = state_of(fold_events(events))
    text = json.dumps(state, indent=1, sort_keys=True, ensure_ascii=False)
    (directory / f"{name}.json").write_text(text + "\n")


def read_log(path: Path) -> list[job_pb2.JobEvent]:
    """The events of a `.binpb`."""
    file, events = io.BytesIO(path.read_bytes()), []
    while (event := parse_length_prefixed(job_pb2.JobEvent, file)) is not None:
        events.append(event)
    return events


def state_of(fold: JobFold) -> dict[str, Any]:
    """A state as JSON."""
    names = [f.name for f in dataclasses.fields(fold) if f.name not in _COPIED]
    return {name: _plain(getattr(fold, name)) for name in names}


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where a state is not what was expected. What a later release has added is no difference."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            each
            for key, value in expected.items()
            for each in differences(value, found.get(key), f"{path}.{key}")
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [each for n, pair in pairs for each in differences(*pair, f"{path}[{n}]")]
    return [] if expected == found else [f"{path}: {expected!r} became {found!r}"]


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_name(key): _plain(each) for key, each in value.items()}
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return value
    several = [_plain(each) for each in value]
    return sorted(several) if isinstance(value, set | frozenset) else several


def _name(key: Any) -> str:
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)
