"""A measured profile goes into a routes file, and nothing else of it changes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from hma import settings
from hma.errors import HmaError
from hma.llm.calibration import Outcome, fit
from hma.llm.probing.findings import Finding, Findings
from hma.llm.probing.routes_file import profile_text, write_profile
from hma.llm.profiles import PRESETS, derive_profile
from hma.llm.routes import Routes, load_routes
from hma.llm.settings import LlmSettings

CALIBRATION = fit(
    Outcome(good=n % 3 > 0, grounded=n % 2 > 0, mean_logprob=-n / 10) for n in range(1, 41)
)
FILE = """\
# Our routes.
default = "small"

[routes.small]   # the cheap one
base_url = "http://a:1/v1"
model = "a"
profile = "mine"

[routes.small.prices]
prompt = 1.0
completion = 2

[profiles.other]
base = "smollm2"

[profiles.mine]  # ours
base = "smollm2"
retrieval = "paragraph"  # by hand
max_batch = 1
"""


def findings(**values: Any) -> Findings:
    measured = {"max_batch": 4, "tools": True, "calibration": CALIBRATION, **values}
    return Findings(
        route="fast",
        model="m",
        profile=PRESETS["standard"],
        features=(
            *(Finding.measured(key, value, "so") for key, value in measured.items()),
            Finding.missed("can_plan", "no tokens"),
        ),
        budget=1,
        spent=1,
        calls=1,
        seconds=1.0,
    )


def routes(**environ: str) -> Routes:
    return load_routes(settings.load(LlmSettings, environ), environ)


def loaded(path: Path) -> Routes:
    return routes(HMA_ROUTES_FILE=str(path))


def test_the_printed_profile_is_toml_that_a_routes_file_takes() -> None:
    table = tomllib.loads(profile_text("fast-measured", findings()))["profiles"]["fast-measured"]
    profile = derive_profile(table, PRESETS)
    assert (profile.max_batch, profile.tools) == (4, True)
    assert profile.calibration == CALIBRATION
    assert table["base"] == "standard"
    assert "can_plan" not in table


def test_a_profile_is_updated_and_the_rest_keeps_its_very_words(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(FILE, encoding="utf-8")
    path.chmod(0o640)
    write_profile(path, "mine", findings(), routes())
    text = path.read_text(encoding="utf-8")
    for line in FILE.splitlines():
        if line != "max_batch = 1":
            assert line in text.splitlines()
    mine = loaded(path)["small"].profile
    assert (mine.max_batch, mine.tools, mine.retrieval) == (4, True, "paragraph")
    assert mine.calibration == CALIBRATION
    assert mine.examples == PRESETS["smollm2"].examples  # its base is its own
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_writing_twice_is_writing_once(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(FILE, encoding="utf-8")
    write_profile(path, "mine", findings(), routes())
    once = path.read_text(encoding="utf-8")
    write_profile(path, "mine", findings(), routes())
    assert path.read_text(encoding="utf-8") == once


@pytest.mark.parametrize(
    "text",
    [
        FILE,
        "[routes.a]\nmodel = 'm'\n",
        "[routes.a]\nmodel = 'm'\n[profiles]\nmine = {base = 'standard', max_batch = 2}\n",
        "[routes.a]\nmodel = 'm'\n[profiles]\n",
        "profiles.fresh.base = 'smollm2'\n[routes.a]\nmodel = 'm'\n",
        "profiles = {}\n[routes.a]\nmodel = 'm'\n",
    ],
)
@pytest.mark.parametrize("name", ["mine", "fresh", "with space"])
def test_a_profile_goes_into_files_of_all_shapes(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(text, encoding="utf-8")
    before = tomllib.loads(text)
    write_profile(path, name, findings(), routes())
    after = tomllib.loads(path.read_text(encoding="utf-8"))
    assert after["profiles"].pop(name)["max_batch"] == 4
    before.get("profiles", {}).pop(name, None)
    assert after["profiles"] == before.pop("profiles", {})
    after.pop("profiles")
    assert after == before
    loaded(path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x = ", "cannot be changed"),
        ("profiles = 3\n", "cannot be changed"),
        ("[profiles]\nmine = 3\n", "cannot be changed|not be valid"),
        ("[profiles.mine]\nbase = 'nobody'\n", "not be valid any more: unknown profile 'nobody'"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_changed_stays_as_it_is(
    tmp_path: Path, text: str, fault: str
) -> None:
    path = tmp_path / "routes.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(HmaError, match=fault):
        write_profile(path, "mine", findings(), routes())
    assert path.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_a_change_that_would_lose_something_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(FILE, encoding="utf-8")
    whole = tomlkit.dumps
    monkeypatch.setattr(tomlkit, "dumps", lambda text: whole(text).replace("completion = 2", ""))
    with pytest.raises(HmaError, match="without loss"):
        write_profile(path, "mine", findings(), routes())
    assert path.read_text(encoding="utf-8") == FILE


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(HmaError, match=r"cannot write .*none"):
        write_profile(tmp_path / "none" / "routes.toml", "mine", findings(), routes())
    with pytest.raises(HmaError, match="preset"):
        write_profile(tmp_path / "routes.toml", "standard", findings(), routes())


def test_a_new_file_works_as_the_settings_did(tmp_path: Path) -> None:
    environ = {
        "HMA_LLM_BASE_URL": "http://v:1/v1",
        "HMA_LLM_MODEL": "m",
        "HMA_LLM_PRICE_PROMPT": "1",
        "HMA_LLM_PRICE_COMPLETION": "2",
    }
    path = tmp_path / "routes.toml"
    before = routes(**environ)
    write_profile(path, "mine", findings(), before)
    after = routes(HMA_ROUTES_FILE=str(path))
    assert list(after) == list(before)
    assert after.default.name == before.default.name
    for name, route in after.items():
        was = before[name]
        assert (route.base_url, route.model, route.prices, route.reasoning) == (
            was.base_url,
            was.model,
            was.prices,
            was.reasoning,
        )
        assert route.profile.max_batch == 4
