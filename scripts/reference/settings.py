"""docs/SETTINGS.md: every environment variable, from the dataclasses that read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

from hma.cli.app import hma as command_line
from hma.client.credentials import CredentialSettings
from hma.client.plaintext import PlaintextSettings
from hma.client.trust import TrustSettings
from hma.llm.prices import PriceTable
from hma.llm.profiles import PRESETS, Profile
from hma.llm.routes import Route
from hma.llm.settings import LlmSettings
from hma.local.parts import parts
from hma.local.settings import StackSettings
from hma.rpc.access_settings import ServiceAccess
from hma.rpc.channel import ChannelSettings
from hma.rpc.server import ServerSettings
from hma.rpc.tls import TlsSettings
from hma.settings import Description, describe, is_port
from hma.telemetry.logs import LogSettings
from scripts.reference.attributes import attributes
from scripts.reference.markdown import code, fill, plain, table
from services.analyst.settings import AnalystSettings
from services.meta_agent.settings import MetaAgentSettings
from services.reducer.settings import ReducerSettings
from services.worker.settings import WorkerSettings

INTRODUCTION = Path(__file__).with_name("settings_introduction.md")

# Read by every service, so each is shown once.
SHARED = (ServerSettings, ServiceAccess, TlsSettings, ChannelSettings, LogSettings)
CLIENT = (CredentialSettings, TrustSettings, PlaintextSettings)
ROLES = (MetaAgentSettings, AnalystSettings, WorkerSettings, ReducerSettings)
_KINDS = {
    "str": "text",
    "bool": "true or false",
    "int": "number",
    "float": "number",
    "seconds": "duration",
    "bytes": "size",
    "secret": "secret",
}
# Of a route, but not in its table: the table's name, and a secret.
_NO_KEYS = ("name", "api_key")
_HEADER = ("Variable", "Kind", "Default", "Meaning")
_MINUTE, _HOUR = 60, 3600


def render() -> str:
    """The page."""
    values = {
        "ports": _ports(),
        "meta_agent": _role(MetaAgentSettings),
        "analyst": _role(AnalystSettings),
        "worker": _role(WorkerSettings),
        "reducer": _role(ReducerSettings),
        "shared": _table(own_variables(*SHARED)),
        "llm": _table(describe(LlmSettings)),
        "route_keys": _keys(Route, kinds={"profile": "a profile's name"}),
        "price_keys": _keys(PriceTable),
        "profile_keys": _profiles(),
        "local": _table(_places()),
        "local_choices": _choices(),
        "client": table(_HEADER, [*map(_row, own_variables(*CLIENT)), *_options()]),
    }
    return fill(INTRODUCTION.read_text(encoding="utf-8"), values)


def own_variables(*classes: type, without: Iterable[str] = ()) -> list[Description]:
    """The settings of classes, each variable once, but for those in `without`."""
    found = {each.variable: each for cls in classes for each in describe(cls)}
    left_out = set(without)
    return [each for each in found.values() if each.variable not in left_out]


def documented() -> set[str]:
    """Every variable on the page."""
    classes = (*SHARED, *ROLES, LlmSettings, StackSettings, *CLIENT)
    ours = {each.variable for cls in classes for each in describe(cls)}
    return ours | {row[0].strip("`") for row in _options()}


def amount(setting: Description) -> str:
    """The default as people write it: 10Mi for 10485760, 10m for 600s."""
    if setting.kind == "bytes":
        return _in_units(int(setting.default), ((1 << 20, "Mi"), (1 << 10, "Ki")), "")
    if setting.kind == "seconds":
        seconds = float(setting.default.removesuffix("s"))
        if seconds.is_integer() and seconds > _MINUTE:
            return _in_units(int(seconds), ((_HOUR, "h"), (_MINUTE, "m")), "s")
    return setting.default.removesuffix(".0") if setting.kind == "float" else setting.default


def _in_units(value: int, units: Iterable[tuple[int, str]], otherwise: str) -> str:
    fitting = (f"{value // size}{unit}" for size, unit in units if value and value % size == 0)
    return next(fitting, f"{value}{otherwise}")


def _table(settings: Iterable[Description]) -> str:
    return table(_HEADER, map(_row, settings))


def _row(setting: Description) -> tuple[str, ...]:
    return (
        code(setting.variable),
        _KINDS.get(setting.kind, setting.kind),
        code(amount(setting)),
        _sentence(setting.help, setting.default),
    )


def _sentence(text: str, default: str = "") -> str:
    """Text that begins and ends as a sentence, unless it begins with a value or a name."""
    first = text.split()[0]
    if first.islower() and first != default:
        text = text[:1].upper() + text[1:]
    return plain(text.removesuffix(".")) + "."


def _role(cls: type) -> str:
    shared = {each.variable for other in (*SHARED, LlmSettings) for each in describe(other)}
    return _table(own_variables(cls, without=shared))


def _stack_ports() -> set[str]:
    return {
        field.metadata["variable"]
        for field in dataclasses.fields(StackSettings)
        if field.metadata.get("check") is is_port
    }


def _ports() -> str:
    ports = (each for each in describe(StackSettings) if each.variable in _stack_ports())
    rows = ((each.default, _sentence(each.help), code(each.variable)) for each in ports)
    return table(("Port", "Who listens", "Variable"), rows)


def _places() -> list[Description]:
    return own_variables(StackSettings, without=_stack_ports())


def _choices() -> str:
    """What the local stack sets to something else than the services' defaults."""
    defaults = {each.variable: each for cls in (*SHARED, *ROLES) for each in describe(cls)}
    told = {each.variable for each in describe(StackSettings)}
    rows = {
        (code(variable), code(value), code(amount(defaults[variable])))
        for part in parts(StackSettings(), {})
        for variable, value in part.environment.items()
        if variable in defaults and variable not in told and value != defaults[variable].default
    }
    return table(("Variable", "Local stack", "Otherwise"), sorted(rows))


def _options() -> Iterator[tuple[str, ...]]:
    """Options of the command line that a variable sets, each variable once."""
    seen: set[str] = set()
    for option in _all_options(command_line):
        variable = option.envvar
        if not isinstance(variable, str) or variable in seen:
            continue
        seen.add(variable)
        kinds = option.type.choices if isinstance(option.type, click.Choice) else ("text",)
        default = option.default if isinstance(option.default, str) else ""
        meaning = (option.help or "").partition("[env:")[0].strip()
        same = f"The same as {code(max(option.opts, key=len))}."
        yield (
            code(variable),
            " or ".join(map(str, kinds)),
            code(default),
            f"{_sentence(meaning)} {same}" if meaning else same,
        )


def _all_options(command: click.Command) -> Iterator[click.Option]:
    yield from (each for each in command.params if isinstance(each, click.Option))
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if inner := command.get_command(context, name):
                yield from _all_options(inner)


def _keys(cls: type, kinds: Mapping[str, str] | None = None) -> str:
    rows = (
        (
            code(each.name),
            (kinds or {}).get(each.name, each.kind),
            code(each.default),
            plain(each.meaning),
        )
        for each in attributes(cls)
        if each.name not in _NO_KEYS
    )
    return table(("Key", "Kind", "Default", "Meaning"), rows)


def _profiles() -> str:
    def shown(profile: Profile, name: str) -> str:
        value = getattr(profile, name)
        if value is None:
            return ""
        return code(str(value).lower() if isinstance(value, bool) else str(value))

    rows = (
        (
            code(each.name),
            each.kind,
            *(shown(profile, each.name) for profile in PRESETS.values()),
            plain(each.meaning),
        )
        for each in attributes(Profile)
    )
    return table(("Key", "Kind", *(f"In {code(name)}" for name in PRESETS), "Meaning"), rows)
