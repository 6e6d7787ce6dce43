"""`hma completion`: a script that teaches the shell hma's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_INSTALL = {
    "bash": 'eval "$(hma completion bash)"      # add this line to ~/.bashrc',
    "zsh": 'eval "$(hma completion zsh)"       # add this line to ~/.zshrc, after compinit',
    "fish": "hma completion fish > ~/.config/fish/completions/hma.fish",
}


@click.command(
    epilog="\b\nTo install:\n" + "\n".join(f"  {shell:5} {how}" for shell, how in _INSTALL.items())
)
@click.argument("shell", type=click.Choice(sorted(_INSTALL)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell; it says how to install it.

    Commands, options, files and the ids of the latest jobs are completed.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    script = kind(ctx.find_root().command, {}, "hma", "_HMA_COMPLETE").source()
    click.echo(f"# Shell completion for hma. To install:\n#   {_INSTALL[shell]}\n{script}")
