"""`relayd demo`: see it work, on embedded servers, in a few seconds."""

from __future__ import annotations

import asyncio

import click
from rich.console import Console


@click.command()
def demo() -> int:
    """Show the daemon at its main job on embedded DNS and SMTP servers; nothing leaves this machine."""
    from relayd.demo.play import play  # its servers are nobody else's business

    return 0 if asyncio.run(play(Console())) else 1
