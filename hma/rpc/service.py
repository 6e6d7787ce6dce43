"""The process around a service: settings, logs, exit codes."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Never, TypeVar

from hma import settings as hma_settings
from hma.errors import HmaError, SettingsError
from hma.settings import Secret
from hma.telemetry import logs

_log = logging.getLogger(__name__)

SettingsT = TypeVar("SettingsT")


def run_service(
    role: str,
    settings: type[SettingsT],
    main: Callable[[SettingsT], Coroutine[Any, Any, None]],
    *,
    arguments: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Never:
    """Runs a service and exits.

    Exit codes: 0 after a drain; 1 when it could not serve; 2 when the settings are
    wrong. Either way one clear message on standard error, never a traceback of an
    error that a user can mend.

    Args:
        role: Name of the service, in logs and messages.
        settings: Class of its settings, read from the environment.
        main: Serves until it is told to stop.
        arguments: The command line; only `--help` is known.
        environ: The environment.
    """
    environ = os.environ if environ is None else environ
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments:
        wanted = arguments[0] in ("-h", "--help")
        print(_usage(role, settings), file=sys.stdout if wanted else sys.stderr)
        sys.exit(0 if wanted else 2)
    try:
        loaded, log_settings = _load(settings, environ)
    except SettingsError as error:
        _say(role, f"the settings are wrong: {error.message}")
        sys.exit(2)
    logs.configure(log_settings, role, hide=tuple(_secrets(loaded)))
    try:
        asyncio.run(main(loaded))
    except HmaError as error:
        _say(role, error.message)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    except Exception as error:  # noqa: BLE001 - the process' last line: it belongs into the log
        _log.critical("the service ended with a defect", exc_info=error)
        _say(role, "ended with a defect; the log has the details")
        sys.exit(1)
    sys.exit(0)


def _load(
    settings: type[SettingsT], environ: Mapping[str, str]
) -> tuple[SettingsT, logs.LogSettings]:
    """Reads both, so that all faults are told at once."""
    faults: list[str] = []
    loaded: list[Any] = []
    for cls in (settings, logs.LogSettings):
        try:
            loaded.append(hma_settings.load(cls, environ))
        except SettingsError as error:
            faults.append(error.message)
    if faults:
        raise SettingsError("; ".join(faults))
    return loaded[0], loaded[1]


def _secrets(settings: object) -> Iterator[Secret]:
    if not dataclasses.is_dataclass(settings):
        return
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Secret):
            yield value
        else:
            yield from _secrets(value)


def _usage(role: str, settings: type) -> str:
    lines = [f"python -m services.{role}: set by the environment", ""]
    for cls in (settings, logs.LogSettings):
        lines += [
            f"  {each.variable} ({each.kind}, default {each.default or 'none'}): {each.help}"
            for each in hma_settings.describe(cls)
        ]
    return "\n".join(lines)


def _say(role: str, text: str) -> None:
    print(f"{role}: {text}", file=sys.stderr)
