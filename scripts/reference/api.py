"""docs/API_REFERENCE.md: how to call HMA, then every service, message and enum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hma.local.gateway import MAX_REQUEST_BYTES
from scripts.reference import failures
from scripts.reference.contracts import (
    PACKAGE,
    Contracts,
    Enum,
    Field,
    File,
    Message,
    Method,
    Service,
)
from scripts.reference.markdown import code, fill, headings, link, plain, table
from scripts.reference.settings import amount, own_variables
from services.meta_agent.edge import limits
from services.meta_agent.edge.limits import Limits

INTRODUCTION = Path(__file__).with_name("api_introduction.md")
QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"
PUBLIC = "MetaAgentService"

# What clients need first. A file that is not named comes after these.
_ORDER = ("meta_agent", "job", "task", "common", "attempt")
_WELL_KNOWN = "https://protobuf.dev/reference/protobuf/google.protobuf/#"


def render(contracts: Contracts) -> str:
    """The page."""
    files = sorted(contracts.files, key=_place)
    services = [service for file in files for service in file.services]
    services.sort(key=lambda service: service.name != PUBLIC)
    types = _Types(files)
    values = {
        "errors": failures.render(contracts.http_statuses),
        "limits": _limits(),
        "quickstart": f"```python\n{QUICKSTART.read_text(encoding='utf-8').strip()}\n```",
    }
    introduction = fill(INTRODUCTION.read_text(encoding="utf-8"), values).strip()
    parts = [
        introduction,
        "## Services",
        *(part for service in services for part in _service(service, types)),
        "## Messages and enums",
        *(part for file in files for part in _file(file, types)),
    ]
    contents = "\n".join(_contents(introduction, services, files))
    return "\n\n".join(parts).replace("<!-- contents -->", contents) + "\n"


def _place(file: File) -> tuple[int, str]:
    stem = Path(file.name).stem
    return (_ORDER.index(stem) if stem in _ORDER else len(_ORDER), stem)


def _contents(
    introduction: str, services: Iterable[Service], files: Iterable[File]
) -> Iterator[str]:
    for level, title in headings(introduction):
        if level == 2:
            yield f"* {link(title, title)}"
    yield f"* {link('Services', 'Services')}"
    for service in services:
        methods = ", ".join(link(each.name, _heading(service, each)) for each in service.methods)
        yield f"  * {link(service.name, service.name)}: {methods}"
    yield f"* {link('Messages and enums', 'Messages and enums')}"
    for file in files:
        types = [each.name for each in file.messages] + [each.name for each in file.enums]
        names = ", ".join(link(each, each) for each in types)
        yield f"  * {link(Path(file.name).name, Path(file.name).name)}: {names}"


def _heading(service: Service, method: Method) -> str:
    return f"{service.name}.{method.name}"


def _service(service: Service, types: _Types) -> Iterator[str]:
    yield f"### {service.name}"
    yield plain(service.comment)
    for method in service.methods:
        yield f"#### {_heading(service, method)}"
        yield plain(method.comment)
        yield "\n".join(_signature(method, types))


def _signature(method: Method, types: _Types) -> Iterator[str]:
    request = f"{'stream of ' * method.request_streams}{types.link(method.request)}"
    response = f"{'stream of ' * method.response_streams}{types.link(method.response)}"
    yield f"* gRPC: {request} → {response}"
    for binding in method.bindings:
        in_path = [name for name in types.fields(method.request) if f"{{{name}}}" in binding.path]
        taken = {*in_path, binding.body}
        rest = [name for name in types.fields(method.request) if name not in taken]
        line = f"* HTTP: `{binding.verb} {binding.path}`"
        if binding.body == "*":
            yield f"{line}, body: the other fields as one object"
            continue
        if binding.body:
            line += f", body: `{binding.body}`"
        if rest:
            line += f", query: {', '.join(map(code, rest))}"
        yield line


def _file(file: File, types: _Types) -> Iterator[str]:
    yield f"### {Path(file.name).name}"
    yield plain(file.comment)
    for message in file.messages:
        yield from _message(message, types)
    for enum in file.enums:
        yield from _enum(enum)


def _message(message: Message, types: _Types) -> Iterator[str]:
    yield f"#### {message.name}"
    yield plain(message.comment)
    for name, comment in message.oneofs:
        yield f"At most one of `{name}` is set: {plain(comment)}"
    if message.fields:
        rows = (
            (str(each.number), code(each.name), *_cells(each, types)) for each in message.fields
        )
        yield table(("No.", "Field", "Type", "Meaning"), rows)
    else:
        yield "No fields."
    if message.reserved:
        yield f"Reserved: {', '.join(map(code, message.reserved))}."


def _cells(field: Field, types: _Types) -> tuple[str, str]:
    """Type and meaning of a field."""
    meaning = plain(field.comment)
    if field.oneof:
        meaning = f"*One of `{field.oneof}`.* {meaning}"
    if field.required:
        meaning = f"**REQUIRED.** {meaning}"
    return f"{field.label} {types.link(field.type)}".strip(), meaning


def _enum(enum: Enum) -> Iterator[str]:
    yield f"#### {enum.name}"
    yield plain(enum.comment)
    rows = ((str(each.number), code(each.name), plain(each.comment)) for each in enum.values)
    yield table(("No.", "Value", "Meaning"), rows)


def _limits() -> str:
    fixed = (
        ("Longest document name, in characters", limits.MAX_NAME_CHARS),
        ("Longest `request_id`, in characters", limits.MAX_REQUEST_ID_CHARS),
        ("Longest `reason`, in characters", limits.MAX_REASON_CHARS),
        ("Most rounds of planning", limits.MAX_ROUNDS),
        ("Most tries per task", limits.MAX_ATTEMPTS),
        ("Largest page of `ListJobs`", limits.MAX_PAGE_SIZE),
    )
    rows = [
        *(
            (plain(each.help), _readable(amount(each)), code(each.variable))
            for each in own_variables(Limits)
        ),
        *((what, f"{value:,}", "") for what, value in fixed),
        ("Largest request by HTTP, base64 included", f"{MAX_REQUEST_BYTES >> 20}Mi", ""),
    ]
    return table(("Limit", "Default", "Set by"), rows)


def _readable(number: str) -> str:
    return f"{int(number):,}" if number.isdigit() else number


class _Types:
    """Links to types, and the fields of messages."""

    def __init__(self, files: Iterable[File]) -> None:
        files = list(files)
        self._messages = {
            f"{PACKAGE}.{each.name}": each for file in files for each in file.messages
        }
        self._enums = {f"{PACKAGE}.{each.name}" for file in files for each in file.enums}

    def link(self, name: str) -> str:
        """A type's name; a link where there is a place to go."""
        short = name.removeprefix(f"{PACKAGE}.")
        if name in self._messages or name in self._enums:
            return link(short, short)
        if name.startswith("google.protobuf."):
            kind = name.removeprefix("google.protobuf.")
            return f"[{name}]({_WELL_KNOWN}{kind.lower()})"
        return name

    def fields(self, message: str) -> list[str]:
        """Names of a message's fields."""
        return [field.name for field in self._messages[message].fields]
