"""`hma probe` as a process: exit codes, what it prints, the routes file that it writes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from hma import settings
from hma.llm.routes import load_routes
from hma.llm.settings import LlmSettings
from tests.integration.llm.strong_model import StrongModel
from tests.scripted_llm import ScriptedLLM

ROOT = Path(__file__).parents[3]


@dataclass
class Ended:
    code: int
    out: str
    err: str


async def hma_probe(*arguments: str, **environ: str) -> Ended:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HMA_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hma.cli",
        "probe",
        *arguments,
        cwd=ROOT,
        env={**clean, "HMA_LLM_PORT": "1", "PYTHONPATH": str(ROOT), **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    return Ended(process.returncode or 0, out.decode(), err.decode())


async def test_everything_measured_exits_with_0_and_prints_a_table_and_toml() -> None:
    async with ScriptedLLM(StrongModel()) as llm:
        ended = await hma_probe("fast", "--budget", "60k", **llm.environment())
    assert ended.code == 0, ended.err
    head, _, toml = ended.out.partition("\n[profiles.")
    assert "max_batch" in head
    assert "8 of 8 in JSON" in head
    profile = tomllib.loads("[profiles." + toml)["profiles"]["fast-measured"]
    assert profile["max_batch"] == 8
    assert profile["calibration"]["samples"] >= 40
    assert 'profile = "fast-measured" in [routes.fast]' in toml
    assert "prompt_tokens_per_second = " in toml
    # Progress does not go where the profile goes.
    assert "  can_plan: yes" in ended.err
    assert "  can_plan: yes" not in ended.out


async def test_a_small_budget_exits_with_3_and_says_what_was_not_measured() -> None:
    async with ScriptedLLM(StrongModel()) as llm:
        ended = await hma_probe("--budget", "3k", "--output", "json", **llm.environment())
        assert llm.total_tokens <= 3000
    assert ended.code == 3, ended.err
    found = json.loads(ended.out)["probe"]
    assert found["spent_tokens"] <= found["budget_tokens"] == 3000
    standing = {each["feature"]: each["standing"] for each in found["features"]}
    assert standing["tokenizer"] == "measured"
    assert standing["calibration"] == "not measured"
    assert "calibration" not in found["profile"]


async def test_the_profile_is_written_and_the_services_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    async with ScriptedLLM(StrongModel(best_batch=2)) as llm:
        path.write_text(
            f"# ours\n[routes.big]\nbase_url = {llm.base_url!r}\nmodel = 'scripted'\n"
            "profile = 'tuned'\n[profiles.tuned]\nretrieval = 'paragraph'\n",
            encoding="utf-8",
        )
        ended = await hma_probe(
            "big", "-b", "60k", "--name", "tuned", "--write", str(path), HMA_ROUTES_FILE=str(path)
        )
    assert ended.code == 0, ended.err
    assert f"[profiles.tuned] is in {path}" in ended.err
    assert path.read_text(encoding="utf-8").startswith("# ours\n")
    environ = {"HMA_ROUTES_FILE": str(path)}
    profile = load_routes(settings.load(LlmSettings, environ), environ)["big"].profile
    assert (profile.max_batch, profile.retrieval) == (2, "paragraph")
    assert profile.prompt_tokens > 0
    assert profile.calibration is not None


async def test_an_unknown_route_is_a_usage_error_that_names_the_routes() -> None:
    ended = await hma_probe("slow")
    assert ended.code == 2
    assert "there is no route 'slow'; there are: fast, reasoning" in ended.err


async def test_nobody_there_exits_with_6_and_spends_nothing() -> None:
    ended = await hma_probe("fast")
    assert ended.code == 6
    assert "Nothing answers at http://127.0.0.1:1/v1" in ended.err
    assert ended.out == ""


async def test_wrong_settings_exit_with_6_and_are_named() -> None:
    ended = await hma_probe("fast", HMA_LLM_PRICE_PROMPT="1")
    assert ended.code == 6
    assert "HMA_LLM_PRICE_COMPLETION: is missing" in ended.err


async def test_a_file_that_cannot_be_written_exits_with_6_after_the_profile(
    tmp_path: Path,
) -> None:
    path = tmp_path / "routes.toml"
    path.write_text("profiles = 3", encoding="utf-8")
    async with ScriptedLLM(StrongModel()) as llm:
        ended = await hma_probe("fast", "-b", "2k", "--write", str(path), **llm.environment())
    assert ended.code == 6
    assert "cannot be changed" in ended.err
    assert "[profiles.fast-measured]" in ended.out
    assert path.read_text(encoding="utf-8") == "profiles = 3"
