"""`relayd completion`: what a shell has to know to complete relayd's command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print a shell's completions.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for bash, zsh or fish, which completes commands and options.

    In bash: source <(relayd completion bash).  The Debian package has them in place.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click knows all of SHELLS
    root = context.find_root().command
    click.echo(kind(root, {}, "relayd", "_RELAYD_COMPLETE").source())
