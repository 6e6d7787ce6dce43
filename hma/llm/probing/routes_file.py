"""A measured profile in a TOML file of routes, with everything else left as it is."""

from __future__ import annotations

import contextlib
import os
import tempfile
import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable

from hma.errors import HmaError
from hma.llm.probing.findings import Findings
from hma.llm.profiles import PRESETS, derive_profile
from hma.llm.routes import Route, Routes


def profile_text(name: str, findings: Findings) -> str:
    """`[profiles.NAME]` as it goes into a routes file."""
    document = tomlkit.document()
    profiles = tomlkit.table(is_super_table=True)
    profiles.append(name, _table(findings.whole_profile))
    document.append("profiles", profiles)
    return tomlkit.dumps(document)


def write_profile(path: Path, name: str, findings: Findings, routes: Routes) -> None:
    """Puts a profile into a routes file.

    A profile of that name keeps its keys that were not measured, its base included. A
    new file gets a table for each of `routes`, too, so that it can be used as it is; those
    with the same model on the same server get the profile.

    Args:
        path: The file; it need not exist.
        name: The profile's name.
        findings: What was measured.
        routes: All routes as they are configured now.

    Raises:
        HmaError: The file cannot be read, changed without loss, or written. It is then
            as it was.
    """
    if name in PRESETS:
        raise HmaError(f"{name} is a preset's name: choose another one with --name")
    path = path.resolve()
    text = _read(path)
    before: dict[str, Any] = {}
    if text is not None:
        try:
            before = tomllib.loads(text)
            document = tomlkit.parse(text)
            _update(document, name, findings)
        except (ValueError, TOMLKitError, TypeError, AttributeError) as error:
            raise HmaError(f"{path} cannot be changed: {error}; put the table in by hand") from None
    else:
        document = _new_file(name, findings, routes)
    written = tomlkit.dumps(document)
    if text is not None:
        _check(path, before, written, name, findings)
    _replace(path, written)


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HmaError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise HmaError(f"cannot read {path}: it is not UTF-8 text") from None


def _update(document: MutableMapping[str, Any], name: str, findings: Findings) -> None:
    if "profiles" not in document:
        document["profiles"] = tomlkit.table(is_super_table=True)
    profiles = document["profiles"]
    if name not in profiles:
        profiles[name] = _value(findings.whole_profile, within=profiles)
        return
    profile = profiles[name]
    for key, value in findings.measured_profile.items():
        profile[key] = _value(value, within=profile)


def _check(
    path: Path, before: Mapping[str, Any], written: str, name: str, findings: Findings
) -> None:
    """Proves that nothing but the profile has changed, and that it can be used."""
    wanted = {**before.get("profiles", {})}
    changes = findings.measured_profile if name in wanted else findings.whole_profile
    wanted[name] = {**wanted.get(name, {}), **changes}
    try:
        after = tomllib.loads(written)
        known = dict(PRESETS)
        for each, table in wanted.items():
            known[each] = derive_profile(table, known)
    except ValueError as error:
        raise HmaError(f"{path} would not be valid any more: {error}") from None
    if after != {**before, "profiles": wanted}:
        raise HmaError(f"{path} cannot be changed without loss: put the table in by hand")


def _new_file(name: str, findings: Findings, routes: Routes) -> tomlkit.TOMLDocument:
    document = tomlkit.document()
    document.add("default", tomlkit.item(routes.default.name))
    tables = tomlkit.table(is_super_table=True)
    probed = routes[findings.route]
    for route in routes.values():
        same = (route.base_url, route.model) == (probed.base_url, probed.model)
        tables.append(route.name, _route_table(route, name if same else ""))
    document.append("routes", tables)
    profiles = tomlkit.table(is_super_table=True)
    profiles.append(name, _table(findings.whole_profile))
    document.append("profiles", profiles)
    return document


def _route_table(route: Route, profile: str) -> Any:
    """A route as it is configured; its key stays in the environment."""
    values: dict[str, Any] = {
        "base_url": route.base_url,
        "model": route.model,
        "context_tokens": route.context_tokens,
        "reasoning": route.reasoning,
        "priority": route.priority,
    }
    known = next((each for each, preset in PRESETS.items() if preset == route.profile), "")
    if profile or known:
        values["profile"] = profile or known
    table = _table(values)
    if route.priced:
        prices = route.prices
        keys = ("prompt", "cached_prompt", "completion")
        table.append("prices", _table({key: getattr(prices, key) for key in keys}))
    return table


def _table(values: Mapping[str, Any]) -> Any:
    return _fill(tomlkit.table(), values)


def _value(value: Any, *, within: Any) -> Any:
    if not isinstance(value, Mapping):
        return tomlkit.item(value)
    # An inline table holds inline tables only.
    inline = isinstance(within, InlineTable)
    return _fill(tomlkit.inline_table() if inline else tomlkit.table(), value)


def _fill(table: Any, values: Mapping[str, Any]) -> Any:
    for key, value in values.items():
        table.append(key, _value(value, within=table))
    return table


def _replace(path: Path, text: str) -> None:
    """Writes all of the file or nothing, and keeps its mode."""
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise HmaError(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise HmaError(f"cannot write {path}: {error.strerror}") from None
