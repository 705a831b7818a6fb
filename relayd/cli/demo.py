"""`relayd demo`: see it work, on embedded servers, in a few seconds."""

from __future__ import annotations

import asyncio
import signal

import click
from rich.console import Console


@click.command(short_help="See it work, on embedded servers.")
def demo() -> int:
    """Show the daemon at its main job on embedded DNS and SMTP servers; nothing leaves this machine.

    Exits with 0 only if all went as it should.
    """
    try:
        return 0 if asyncio.run(_play()) else 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


async def _play() -> bool:
    """Play until the end, or a SIGTERM: its daemon and its directory must not outlive it."""
    from relayd.demo.play import play  # its servers are nobody else's business

    playing = asyncio.ensure_future(play(Console()))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)
    return await playing
