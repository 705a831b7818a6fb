"""The program: `relayd`, or `python -m relayd`; and `sendmail`, `mailq` and `newaliases`, where it is called so.

Our own trouble becomes a sentence and an exit code of sysexits(3).  Nothing is imported before it is known what is
wanted: programs that send mail by `sendmail` start it for each message.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

EX_USAGE = 64  # the command line is wrong
EX_DATAERR = 65  # no such message
EX_SOFTWARE = 70
EX_OSERR = 71
EX_TEMPFAIL = 75  # try later
EX_CONFIG = 78

SENDMAIL = "sendmail"  # a name of the program, or its first word


def main() -> None:
    """Run the command line and exit."""
    name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    if name in (SENDMAIL, "mailq", "newaliases"):
        sys.exit(run_sendmail(name, words))
    if words[:1] == [SENDMAIL]:
        sys.exit(run_sendmail(SENDMAIL, words[1:]))
    sys.exit(run(words))


def run_sendmail(name: str, words: list[str]) -> int:
    """Run as sendmail(1) and its like, without the rest of the command line; return the exit code."""
    from relayd.cli.where import CONFIG_VARIABLE, DEFAULT_CONFIG
    from relayd.sendmail.program import run as run_as

    config = Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)
    return run_as(name, words, config, lambda path: run(["--config", str(path), "queue", "list"]))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    import click

    from relayd.cli.root import relayd
    from relayd.mail.errors import ConfigError, QueueError, RelaydError, SpoolLocked

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
    import click

    for line in text.splitlines():
        click.echo(f"relayd: {line}", err=True)
    return code


if __name__ == "__main__":
    main()
