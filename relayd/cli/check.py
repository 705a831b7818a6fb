"""`relayd check-config`: every mistake of a configuration, each with its key."""

from __future__ import annotations

from pathlib import Path

import click

from relayd.config import load


@click.command("check-config")
@click.pass_obj
def check_config(config_path: Path) -> int:
    """Check the configuration file.

    Prints every mistake, each with its key, and exits with 78 if there is one.
    """
    load(config_path, unit=False)
    click.echo(f"{config_path}: no mistakes")
    return 0
