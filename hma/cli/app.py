"""The `hma` command: its commands, loaded when they are needed, and its errors."""

from __future__ import annotations

import importlib
from typing import Any

import click

from hma import __version__
from hma.cli.outcome import LEFT, REFUSED, complain, examples
from hma.errors import HmaError

# In the order of `hma --help`: module and function.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("hma.cli.commands.work", "run"),
    "submit": ("hma.cli.commands.work", "submit"),
    "watch": ("hma.cli.commands.work", "watch"),
    "get": ("hma.cli.commands.jobs", "get"),
    "explain": ("hma.cli.commands.explain", "explain"),
    "export": ("hma.cli.commands.export", "export_command"),
    "list": ("hma.cli.commands.jobs", "list_jobs"),
    "interrupt": ("hma.cli.commands.jobs", "interrupt"),
    "cancel": ("hma.cli.commands.jobs", "cancel"),
    "grant": ("hma.cli.commands.jobs", "grant"),
    "delete": ("hma.cli.commands.jobs", "delete"),
    "quota": ("hma.cli.commands.quota", "quota"),
    "usage": ("hma.cli.commands.usage", "usage"),
    "audit": ("hma.cli.commands.audit", "audit"),
    "reconcile": ("hma.cli.commands.reconcile", "reconcile_command"),
    "keys": ("hma.cli.commands.keys", "keys"),
    "status": ("hma.cli.commands.system", "status"),
    "doctor": ("hma.cli.commands.system", "doctor"),
    "probe": ("hma.cli.commands.probe", "probe"),
    "demo": ("hma.cli.commands.demo", "demo"),
    "completion": ("hma.cli.commands.completion", "completion"),
}


class Commands(click.Group):
    """Loads a command's module when it is used, and turns HMA's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in reading order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what HMA has to say against it is one line and exit code 6."""
        try:
            return super().invoke(ctx)
        except HmaError as error:
            complain(error, as_json=ctx.meta.get("hma.output") == "json")
            ctx.exit(REFUSED)
        except KeyboardInterrupt:
            click.echo("hma: stopped", err=True)
            ctx.exit(LEFT)


@click.command(
    cls=Commands,
    epilog=examples(
        "make up                                       start HMA on this machine",
        "hma doctor                                    what is up, what is wrong, what to do",
        'hma run "Which ports?" -d README.md -b 4000   ask, watch, read the answer',
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="hma %(version)s")
def hma() -> None:
    """Run teams of LLM agents under a hard token budget.

    HMA is looked for at localhost:8080; --server or HMA_SERVER name another place. Your key is
    in HMA_API_KEY, or in the file that HMA_API_KEY_FILE names.
    Every command has --help with examples, and --output json for programs.
    """
