"""docs/SETTINGS.md names every variable that the code knows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.llm.routes import load_routes
from hma.llm.settings import LlmSettings
from hma.local.settings import StackSettings
from hma.settings import Bytes, Description, Seconds, describe, parse
from scripts.reference import settings
from scripts.reference.attributes import attributes

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "SETTINGS.md"
# `_HMA_COMPLETE` is click's own, `HMA_LLM_*` a family, `HMA_<ROLE>_PORT` a pattern.
VARIABLE = re.compile(r"(?<![A-Z_])HMA_[A-Z0-9_]*[A-Z0-9](?![A-Z0-9_*<{])")
PLACES = ("hma", "services", "scripts", "gateway", "examples", "bench", "docs", ".ci")
FILES = ("Makefile", "README.md", "pyproject.toml")
TEXT = {"", ".py", ".sh", ".md", ".yaml", ".toml", ".json", ".csv"}


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def _sources() -> Iterator[Path]:
    yield from (ROOT / name for name in FILES if (ROOT / name).exists())
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*")):
            if path.is_file() and path.suffix in TEXT and path != PAGE:
                yield path


def _rows(page: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)


def test_every_variable_in_the_code_base_is_documented(page: str) -> None:
    named = {
        (variable, str(path.relative_to(ROOT)))
        for path in _sources()
        for variable in VARIABLE.findall(path.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    rows = set(re.findall(r"`([A-Z_]+)`", page))

    assert sorted(each for each in named if each[0] not in rows) == []


def test_every_setting_of_every_process_has_a_row(page: str) -> None:
    classes = (*settings.SHARED, *settings.ROLES, StackSettings)
    variables = {each.variable for cls in classes for each in describe(cls)}
    assert "MAX_CONCURRENT_WORKERS" in variables

    ports = set(re.findall(r"\| `(HMA_\w+_PORT)` \|$", page, re.MULTILINE))
    assert variables - set(_rows(page)) - ports == set()


def test_the_page_is_fresh(page: str) -> None:
    assert page == settings.render()


def test_what_every_service_reads_is_shown_once(page: str) -> None:
    for variable in ("HMA_DRAIN_GRACE", "HMA_LOG_LEVEL", "HMA_MAX_MESSAGE_BYTES"):
        everywhere = page.replace("They also choose", "\0").split("\0")[0]
        assert _rows(everywhere).count(variable) == 1


def test_what_the_local_stack_chooses_is_shown_beside_the_default(page: str) -> None:
    assert "| `HMA_DRAIN_DELAY` | `0s` | `4.5s` |" in page


def test_variables_of_the_command_line_are_there(page: str) -> None:
    assert "| `HMA_SERVER` | text | `localhost:8080` |" in page
    assert "| `HMA_OUTPUT` | text or json | `text` |" in page
    assert "`--deadline`" in page


def test_the_routes_file_of_the_page_loads(page: str, tmp_path: Path) -> None:
    found = re.search(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found
    tomllib.loads(found[1])
    path = tmp_path / "routes.toml"
    path.write_text(found[1])

    routes = load_routes(LlmSettings(routes_file=str(path)), {"VLLM_KEY": "secret"})

    assert sorted(routes) == ["fast", "reasoning"]
    assert routes.default.profile.max_batch == 4


@given(st.integers(min_value=0, max_value=1 << 40))
def test_a_size_reads_back_as_what_it_is(value: int) -> None:
    shown = settings.amount(Description("V", "bytes", str(value), ""))

    assert parse(Bytes, shown) == value


@given(st.integers(min_value=0, max_value=10**6).map(lambda ms: ms / 8))
def test_a_duration_reads_back_as_what_it_is(value: float) -> None:
    shown = settings.amount(Description("V", "seconds", f"{value:g}s", ""))

    assert parse(Seconds, shown) == pytest.approx(value, rel=1e-4)


def test_people_s_units_are_used() -> None:
    def shown(kind: str, default: str) -> str:
        return settings.amount(Description("V", kind, default, ""))

    assert shown("bytes", str(10 << 20)) == "10Mi"
    assert shown("bytes", "1000") == "1000"
    assert shown("seconds", "7200s") == "2h"
    assert shown("seconds", "600s") == "10m"
    assert shown("seconds", "90s") == "90s"


def test_an_attribute_without_description_is_noticed() -> None:
    @dataclass
    class Half:
        """Half described.

        Attributes:
            one: Over
                two lines.
        """

        one: int = 1

    @dataclass
    class Undescribed(Half):
        """Nothing here."""

    assert [(each.name, each.meaning, each.default) for each in attributes(Half)] == [
        ("one", "Over two lines.", "1")
    ]
    with pytest.raises(KeyError, match="one"):
        attributes(Undescribed)
