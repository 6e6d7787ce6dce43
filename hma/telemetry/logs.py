"""Structured logs: one JSON object per line on standard error, or plain text.

    logs.configure(load(LogSettings, os.environ), service="worker")
    with logs.bind(job_id="j1", task_uid="1.3", attempt=1):
        log.info("call ended", extra={"tokens": 412})

Bound fields follow the asyncio task and those it starts.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from hma.settings import Secret, one_of, setting
from hma.telemetry.credentials import without_credentials
from hma.text.unseen import escaped

_BOUND: ContextVar[Mapping[str, object]] = ContextVar("hma_log_fields")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SHORTEST_SECRET = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How a process logs."""

    level: str = setting(
        "HMA_LOG_LEVEL",
        "info",
        "least severe level that is logged: debug, info, warning, error",
        check=one_of("debug", "info", "warning", "error"),
    )
    format: str = setting(
        "HMA_LOG_FORMAT",
        "json",
        "json (one object per line) or text (for people)",
        check=one_of("json", "text"),
    )


@contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Adds fields to every line that is logged inside."""
    token = _BOUND.set({**_BOUND.get({}), **fields})
    try:
        yield
    finally:
        _BOUND.reset(token)


def bound() -> Mapping[str, object]:
    """The fields that are bound here."""
    return _BOUND.get({})


_CHATTY = ("httpx2", "httpcore2", "openai")
"""Libraries that log every request."""


class Masks:
    """Texts that are replaced by "***", besides whatever has the shape of a credential.

    Args:
        hide: The texts; of a URL its password, too.
    """

    def __init__(self, hide: Sequence[Secret] = ()) -> None:
        self._texts: tuple[str, ...] = ()
        self.add(hide)

    def add(self, hide: Iterable[Secret]) -> None:
        """Hides more."""
        found = {form for secret in hide for text in _parts(secret) for form in _forms(text)}
        # The longest first: a password within a URL must not keep the URL from being found.
        self._texts = tuple(sorted({*self._texts, *found}, key=len, reverse=True))

    def masked(self, line: str) -> str:
        """`line` without any of them."""
        for text in self._texts:
            line = line.replace(text, "***")
        return without_credentials(line)


def _parts(secret: Secret) -> Iterator[str]:
    """The whole, and the password of a URL; very short ones would mask half of every line."""
    texts = [secret.reveal()]
    with suppress(ValueError):
        password = urlsplit(texts[0]).password or ""
        texts += [password, unquote(password)]
    return (text for text in texts if len(text) >= _SHORTEST_SECRET)


def _forms(text: str) -> Iterator[str]:
    """As it is, and as it is written inside a JSON string."""
    yield text
    yield json.dumps(text, ensure_ascii=False)[1:-1]


def hide(secrets: Iterable[Secret]) -> None:
    """Hides what is known only after the logs were configured, such as keys of routes."""
    found = list(secrets)
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter | TextFormatter):
            handler.formatter.masks.add(found)


class JsonFormatter(logging.Formatter):
    """One JSON object per line.

    Args:
        service: Value of the field "service".
        hide: Texts that are replaced by "***" wherever they would appear.
    """

    def __init__(self, service: str, hide: Sequence[Secret] = ()) -> None:
        super().__init__()
        self._service = service
        self.masks = Masks(hide)

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = self.formatException(record.exc_info)
        line = json.dumps(_plain(entry), ensure_ascii=False, default=str)
        # What JSON leaves as it is could still have the line look other than it is.
        return escaped(self.masks.masked(line))


class TextFormatter(logging.Formatter):
    """Time, level, logger, message and fields, for people."""

    def __init__(self, service: str, hide: Sequence[Secret] = ()) -> None:
        super().__init__()
        self._service = service
        self.masks = Masks(hide)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback below it."""
        fields = " ".join(f"{key}={_plain(value)}" for key, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname:<7} {self._service} {record.name}: "
        line += record.getMessage() + (f"  {fields}" if fields else "")
        # One line, whatever is in it: nobody writes another's line into the log.
        line = escaped(line)
        if record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n  {escaped(each)}" for each in trace)
        return self.masks.masked(line)


def configure(
    settings: LogSettings, service: str, *, hide: Sequence[Secret] = (), stream: Any = None
) -> None:
    """Sends the logs of the whole process to `stream` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    formatter = JsonFormatter if settings.format == "json" else TextFormatter
    handler.setFormatter(formatter(service, hide))
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    if settings.level.upper() != "DEBUG":
        # A line per HTTP request at INFO would drown what the services have to say.
        for chatty in _CHATTY:
            logging.getLogger(chatty).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    extra = {key: value for key, value in vars(record).items() if key not in _OWN}
    return {**bound(), **extra}


def _plain(value: object) -> object:
    """Masks secrets, which JSON would otherwise write as the text that they are."""
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return value


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
