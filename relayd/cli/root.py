"""`relayd`: the daemon itself, and the group that the other commands belong to."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from relayd import __version__
from relayd.cli.where import CONFIG_VARIABLE, DEFAULT_CONFIG

COMMANDS = {  # each in a module of its own
    "check-config": "relayd.cli.check",
    "completion": "relayd.cli.completion",
    "demo": "relayd.cli.demo",
    "doctor": "relayd.cli.doctor",
    "explain": "relayd.cli.explain",
    "history": "relayd.cli.history",
    "probe": "relayd.cli.probe",
    "queue": "relayd.cli.queue",
    "recover": "relayd.cli.recover",
    "route": "relayd.cli.route",
    "sendmail": "relayd.cli.sendmail",
    "tls-report": "relayd.cli.tls_report",
    "top": "relayd.cli.top",
}

EXIT_CODES = """\
Exit codes are those of sysexits(3): 64 a wrong command line, 65 no such message, 69 mail would fail, 70 the queue
cannot be used, 71 the system refuses, 75 try later, 78 a mistake in the configuration.  1: relayd doctor has found
something.
"""


class Commands(click.Group):
    """A group whose commands are imported when they are wanted: the daemon, and each of them, starts without the
    others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        return command


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    envvar=CONFIG_VARIABLE,
    help="The configuration file.",
)
@click.option("--once", is_flag=True, help="Relay until nothing is due or in flight, then end (75 if mail waits).")
@click.version_option(__version__, prog_name="relayd")
@click.pass_context
def relayd(context: click.Context, config_path: Path, once: bool) -> int:
    """Relay outgoing mail.  Without a command: run the daemon, in the foreground."""
    context.obj = config_path
    if context.invoked_subcommand is None:
        from relayd.config import load  # the commands start faster without these
        from relayd.daemon import run

        return run(load(config_path), once=once)
    if once:
        raise click.UsageError("--once is for the daemon, not for its commands")
    return 0
