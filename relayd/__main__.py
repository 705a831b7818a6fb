"""The program: `relayd`, or `python -m relayd`.  Our own trouble becomes a sentence and an exit code of sysexits(3)."""

from __future__ import annotations

import sys

import click

from relayd.cli.root import relayd
from relayd.mail.errors import ConfigError, QueueError, RelaydError, SpoolLocked

EX_USAGE = 64  # the command line is wrong
EX_DATAERR = 65  # no such message
EX_SOFTWARE = 70
EX_OSERR = 71
EX_TEMPFAIL = 75  # try later
EX_CONFIG = 78


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    try:
        return int(relayd.main(arguments, prog_name="relayd", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return EX_USAGE
    except (click.Abort, KeyboardInterrupt):
        return 130
    except ConfigError as error:
        return _tell("\n".join(error.mistakes), EX_CONFIG)
    except SpoolLocked as error:
        return _tell(str(error), EX_TEMPFAIL)
    except QueueError as error:
        return _tell(str(error), EX_SOFTWARE)
    except RelaydError as error:
        return _tell(str(error), EX_DATAERR)
    except OSError as error:
        return _tell(str(error), EX_OSERR)


def _tell(text: str, code: int) -> int:
    for line in text.splitlines():
        click.echo(f"relayd: {line}", err=True)
    return code


if __name__ == "__main__":
    main()
