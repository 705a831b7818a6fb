"""The command line: whatever cron, PHP, mutt, git and mailx write, and what is wrong in words."""

from __future__ import annotations

import pytest

from relayd.sendmail.arguments import Invocation, Mode, read_arguments
from relayd.sendmail.failure import EX_USAGE, Failure


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("-t -i", Invocation(from_header=True, dot_ends=False)),  # PHP
        ("-ti", Invocation(from_header=True, dot_ends=False)),
        ("-t -i -fbounce@example.org", Invocation(from_header=True, dot_ends=False, sender="bounce@example.org")),
        (
            "-FCronDaemon -i -odi -oem -oi -t -f root",
            Invocation(full_name="CronDaemon", dot_ends=False, from_header=True, sender="root"),
        ),
        (
            "-FCronDaemon -i -B8BITMIME -oem ann",
            Invocation(full_name="CronDaemon", dot_ends=False, recipients=("ann",)),
        ),
        (
            "-oem -oi -f me@example.org -N failure,delay -R hdrs -- a@example.org b@example.org",  # mutt
            Invocation(
                dot_ends=False,
                sender="me@example.org",
                notify="FAILURE,DELAY",
                ret="HDRS",
                recipients=("a@example.org", "b@example.org"),
            ),
        ),
        ("-i -m ann", Invocation(dot_ends=False, recipients=("ann",))),  # mailx
        ("-o i -b m -f <> ann", Invocation(dot_ends=False, sender="", recipients=("ann",))),
        (
            "-r ann -Ac -O Timeout=1 -oTimeout=1 -e q -h 3 -L x -p y -X /log -nvGUc x",
            Invocation(sender="ann", recipients=("x",)),
        ),
        ("-V a+b ann", Invocation(envid="a+2Bb", recipients=("ann",))),
        ("-bs", Invocation(mode=Mode.SMTP)),
        ("-bp", Invocation(mode=Mode.LIST)),
        ("-bv ann", Invocation(mode=Mode.VERIFY, recipients=("ann",))),
        ("-bi", Invocation(mode=Mode.ALIASES)),
        ("-I", Invocation(mode=Mode.ALIASES)),
        ("-q", Invocation(mode=Mode.WAKE)),
        ("-q30m", Invocation(mode=Mode.WAKE)),
        (
            "-C /etc/x.toml --key=k --config /y.toml -- -ann",
            Invocation(key="k", config="/y.toml", recipients=("-ann",)),
        ),
        ("ann -t", Invocation(recipients=("ann", "-t"))),
        ("- ann", Invocation(recipients=("-", "ann"))),
        ("--help", Invocation(mode=Mode.HELP)),
        ("-h", Invocation(mode=Mode.HELP)),
    ],
)
def test_it_is_read_as_other_sendmails_read_it(line: str, asked: Invocation) -> None:
    assert read_arguments("sendmail", line.split()) == asked


def test_an_empty_sender_is_nobody() -> None:
    assert read_arguments("sendmail", ["-f", "", "ann"]).sender == ""


@pytest.mark.parametrize(("name", "mode"), [("mailq", Mode.LIST), ("newaliases", Mode.ALIASES)])
def test_other_names_do_other_things(name: str, mode: Mode) -> None:
    assert read_arguments(name, []).mode is mode
    assert read_arguments(name, ["-bm", "ann"]).mode is Mode.DELIVER


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-Z", "-Z: no such option"),
        ("-tZ", "-Z: no such option"),
        ("--keys x", "--keys: no such option"),
        ("-f", "-f needs a value"),
        ("--key", "--key needs a value"),
        ("--key=", "a key has"),
        ("-bd", "-bd: relayd runs as a service"),
        ("-bz", "-bz: no such mode"),
        ("-N sometimes ann", "-N takes"),
        ("-N never,delay ann", "-N takes"),
        ("-R some ann", "-R takes"),
        ("-V " + "=" * 34 + " ann", "-V takes"),
        ("-qIabc", "relayd queue retry"),
        ("-bs -t", "-t is for"),
        ("-bs ann", "recipients are for"),
        ("-bs --key=k", "--key is for"),
    ],
)
def test_what_is_wrong_is_told(line: str, told: str) -> None:
    with pytest.raises(Failure, match=told) as failure:
        read_arguments("sendmail", line.split())

    assert failure.value.code == EX_USAGE
