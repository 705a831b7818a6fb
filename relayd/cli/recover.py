"""`relayd recover`: rebuild the queue from the bodies, when queue.db is lost or damaged."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.pass_obj
def recover(config_path: Path) -> int:
    """Rebuild the queue from the bodies on disk, after queue.db was lost or damaged."""
    return 1
