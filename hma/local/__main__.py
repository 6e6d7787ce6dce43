"""`python -m hma.local up` and `run`: the whole system on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from hma.errors import SettingsError
from hma.local.access import key_path
from hma.local.parts import Part, client_environment, server_of
from hma.local.secret_files import exposed_files
from hma.local.settings import StackSettings, load_stack
from hma.local.stack import Interrupted, PartFailed, Stack
from hma.local.tether import tethered
from hma.settings import LOOPBACK

_POLL_S = 0.2
_CLIENT_PATIENCE_S = 5.0


@click.group()
def main() -> None:
    """Runs PostgreSQL, llama.cpp, the services and Envoy on this machine."""


@main.command()
def up() -> None:
    """Keeps the stack serving until Ctrl-C."""
    settings = _settings()
    try:
        with _running(Stack(settings, on_ready=_say_ready, on_lost=_say_lost)) as stack:
            click.echo(_welcome(settings, stack))
            while True:
                stack.check()
                time.sleep(_POLL_S)
    except Interrupted:
        click.echo("Stopped.", err=True)


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Starts the stack, runs `hma demo` with ARGUMENTS, stops everything.

    Exits as `hma demo` does: 0 when there is an answer.
    """
    settings = _settings()
    click.echo(f"Starting HMA (logs in {settings.data / 'log'}):", nl=False, err=True)
    try:
        with _running(Stack(settings, on_ready=_say_ready_briefly, on_lost=_say_lost)) as stack:
            click.echo(".", err=True)
            code = _run_client(["demo", *arguments], settings, stack)
    except Interrupted as interrupted:
        click.echo("Stopped.", err=True)
        code = 128 + interrupted.number
    sys.exit(code)


def _settings() -> StackSettings:
    try:
        settings = load_stack()
    except SettingsError as error:
        raise click.UsageError(error.message) from error
    for fault in exposed_files(settings):
        click.echo(f"Warning: {fault}", err=True)
    return settings


@contextmanager
def _running(stack: Stack) -> Iterator[Stack]:
    """Runs the body inside the stack; turns signals and faults into an orderly end."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        stack.interrupt(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        with stack:
            yield stack
    except SettingsError as error:
        click.echo(f"\nCannot start: {error.message}.", err=True)
        sys.exit(2)
    except PartFailed as error:
        click.echo(f"\n{error.message}. Its log ({error.part.log}) ends:", err=True)
        for line in error.log_tail():
            click.echo(f"  {line}", err=True)
        sys.exit(1)


def _run_client(arguments: list[str], settings: StackSettings, stack: Stack) -> int:
    """Runs `hma` with our terminal while watching the stack; returns its exit code.

    Ctrl-C is the client's meanwhile: it asks for the answer at once, then cancels, then
    leaves. It is in a process group of its own, so that it gets each Ctrl-C once.
    """
    command = [sys.executable, "-m", "hma.cli", *arguments]
    client = subprocess.Popen(  # noqa: S603 - our own command line
        tethered(command, signal.SIGTERM), env=client_environment(settings), process_group=0
    )
    stack_s = signal.signal(signal.SIGINT, lambda number, frame: client.send_signal(number))
    try:
        while client.poll() is None:
            stack.check()
            time.sleep(_POLL_S)
        return client.returncode
    finally:
        signal.signal(signal.SIGINT, stack_s)
        if client.poll() is None:
            client.terminate()
            try:
                client.wait(_CLIENT_PATIENCE_S)
            except subprocess.TimeoutExpired:
                client.kill()
                client.wait()


def _say_ready(part: Part, seconds: float) -> None:
    click.echo(f"  {part.name:<11} ready after {seconds:4.1f} s   {part.where}", err=True)


def _say_ready_briefly(part: Part, seconds: float) -> None:
    click.echo(f" {part.name} {seconds:.1f} s", nl=False, err=True)


def _say_lost(part: Part, how: str) -> None:
    click.echo(f"{part.name} ended {how}; the others go on. Its log: {part.log}", err=True)


def _welcome(settings: StackSettings, stack: Stack) -> str:
    address = settings.gateway_address
    model = "" if settings.embeds_llm else "\n(The model server is your own.)"
    secure, ca = settings.tls.for_clients, settings.tls.client_ca_file
    usual = address in ("127.0.0.1:8080", "localhost:8080") and not secure
    server = "" if usual else f"HMA_SERVER={server_of(settings)} "
    key, curl, grpcurl = "", "curl", "grpcurl"
    if settings.access.required:
        path = key_path(settings)
        key = f"\n  export HMA_API_KEY_FILE={path}   # an operator's key; `hma keys` makes others"
        shown = f'"authorization: Bearer $(cat {path})"'
        curl, grpcurl = f"curl -H {shown}", f"grpcurl -H {shown}"
    plain = "" if secure else "-plaintext "
    if secure and ca:
        key += f"\n  export HMA_CA_FILE={ca}"
        curl, plain = f"{curl} --cacert {ca}", f"-cacert {ca} "
    url = settings.gateway_url
    return f"""
HMA serves at {url} (gRPC, gRPC-Web, HTTP/JSON).{model}{_reach(settings)}
Logs are in {stack.parts[0].log.parent}. Ctrl-C stops everything. In a second terminal:
{key}
  {server}.venv/bin/hma run "Who may approve a refund?" --doc README.md --budget 5000 --deadline 2m
  {server}.venv/bin/hma status
  {curl} -X POST '{url}/submit?wait=60s' -H 'Content-Type: application/json' \\
    -d '{{"task_description": "What is a token budget?", "total_budget_tokens": 2000}}'
  {curl} {url}/v1/jobs
  {curl} {url}/metrics
  .venv/bin/grpcurl {plain}{address} list
  .venv/bin/{grpcurl} {plain}{address} hma.v1.MetaAgentService/ListJobs
"""


def _reach(settings: StackSettings) -> str:
    """What other machines can reach, and what to know about that."""
    lines = []
    if settings.public_host not in LOOPBACK:
        lines.append(f"Other machines reach the gateway: it binds {settings.public_host}.")
        if not settings.tls.for_clients:
            lines.append(
                "Keys cross the network in plain text: HMA_GATEWAY_TLS_CERT_FILE ends that."
            )
    if settings.host not in LOOPBACK:
        lines.append(
            f"They reach all services and metrics, too, which bind {settings.host} (HMA_HOST); "
            "HMA_GATEWAY_HOST opens the gateway alone."
        )
    return "".join(f"\n{line}" for line in lines)


if __name__ == "__main__":
    main(prog_name="python -m hma.local")
