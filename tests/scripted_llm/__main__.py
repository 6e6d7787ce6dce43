"""`python -m tests.scripted_llm`: the scripted server as a process."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from pathlib import Path

from tests.scripted_llm import ScriptedLLM
from tests.scripted_llm.journal import Journal
from tests.scripted_llm.script import rules_of


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="An OpenAI-compatible server that follows a script."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--style", choices=["vllm", "llama.cpp"], default="vllm")
    parser.add_argument("--model", default="scripted")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--context-tokens", type=int, default=8192)
    parser.add_argument("--token-delay", type=float, default=0.0, help="seconds per token")
    parser.add_argument("--first-delay", type=float, default=0.0, help="seconds before tokens")
    parser.add_argument("--slots", type=int, default=None, help="requests that run at once")
    parser.add_argument("--loading-for", type=float, default=0.0, help="seconds of 503 at first")
    parser.add_argument("--script", type=Path, help="JSON as for /_script, from the start on")
    parser.add_argument("--journal", type=Path, help="file for what was counted; outlives a kill")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    options = vars(arguments)
    script, journal = options.pop("script"), options.pop("journal")
    rules = [] if script is None else rules_of(json.loads(script.read_text()))
    if journal is not None:
        options["on_count"] = Journal(journal).note
    async with ScriptedLLM(rules, **options) as llm:
        print(f"ready {llm.base_url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_serve(_arguments()))
