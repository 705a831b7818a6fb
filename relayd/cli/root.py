"""`relayd`: the daemon itself, and the group that the other commands belong to."""

from __future__ import annotations

from pathlib import Path

import click

from relayd import __version__
from relayd.cli.check import check_config
from relayd.cli.demo import demo
from relayd.cli.doctor import doctor
from relayd.cli.explain import explain
from relayd.cli.queue import queue
from relayd.cli.recover import recover
from relayd.config import load

DEFAULT_CONFIG = Path("/etc/relayd/config.toml")


EXIT_CODES = """\
Exit codes are those of sysexits(3): 64 a wrong command line, 65 no such message, 70 the queue cannot be used, 71 the
system refuses, 75 try later, 78 a mistake in the configuration.  1: relayd doctor has found something.
"""


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    envvar="RELAYD_CONFIG",
    help="The configuration file.",
)
@click.option("--once", is_flag=True, help="Relay until nothing is due or in flight, then end (75 if mail waits).")
@click.version_option(__version__, prog_name="relayd")
@click.pass_context
def relayd(context: click.Context, config_path: Path, once: bool) -> int:
    """Relay outgoing mail.  Without a command: run the daemon, in the foreground."""
    context.obj = config_path
    if context.invoked_subcommand is None:
        from relayd.daemon import run  # the commands start faster without it

        return run(load(config_path), once=once)
    if once:
        raise click.UsageError("--once is for the daemon, not for its commands")
    return 0


for command in (check_config, queue, explain, doctor, recover, demo):
    relayd.add_command(command)
