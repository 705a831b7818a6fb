"""The command itself: what was asked for is done, and an exit code returned.

It is called for each mail, by cron, PHP and mail programs, so it starts without whatever it does not need: no event
loop, no pydantic, no daemon.
"""

from __future__ import annotations

import os
import pwd
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from relayd.mail.errors import RelaydError
from relayd.sendmail.arguments import USAGE, Invocation, Mode, read_arguments
from relayd.sendmail.content import Content
from relayd.sendmail.drop import fail_on, interrupting
from relayd.sendmail.envelope import Lines, Receiver, receiver_of, receivers_of, sender_of, user_part
from relayd.sendmail.failure import EX_DATAERR, EX_OSERR, EX_UNAVAILABLE, EX_USAGE, Failure
from relayd.sendmail.settings import SendmailSettings, read_settings
from relayd.sendmail.source import octets_of, until_dot
from relayd.sendmail.submission import drop
from relayd.submission.envelope import named_in_header
from relayd.submission.refusal import Refused

PATIENCE = 10.0  # seconds for the daemon to take a message whose id is to be printed
_FIRST_LOOK, _LONGEST_REST = 0.02, 0.5  # seconds between two questions

ListQueue = Callable[[Path], int]


def run(name: str, words: Sequence[str], config: Path, list_queue: ListQueue) -> int:
    """Do what the command line of a program called `name` asks for; return the exit code.

    `config` is the configuration if the words name none; `list_queue` prints the queue of one.
    """
    try:
        _open_standard_descriptors()
        invocation = read_arguments(name, words)
        path = Path(invocation.config) if invocation.config else config
        if invocation.mode is not Mode.LIST:
            _do(invocation, path)
            return 0
    except Failure as failure:
        return _tell(name, str(failure), failure.code)
    except RelaydError as error:
        return _tell(name, str(error), EX_DATAERR)
    except OSError as error:
        return _tell(name, str(error), EX_OSERR)
    return list_queue(path)


def _do(invocation: Invocation, path: Path) -> None:
    match invocation.mode:
        case Mode.HELP:
            sys.stdout.write(USAGE)
        case Mode.ALIASES | Mode.LIST:
            pass  # aliases are read when they are needed
        case Mode.WAKE:
            _wake(read_settings(path))
        case Mode.VERIFY:
            _verify(invocation, read_settings(path))
        case Mode.SMTP:
            _talk(read_settings(path))
        case Mode.DELIVER:
            _deliver(invocation, read_settings(path))


# a message from standard input


def _deliver(invocation: Invocation, settings: SendmailSettings) -> None:
    fail_on(interrupting())
    envelope = _Envelope(invocation, settings)
    chunks = octets_of(0)
    drop(settings, until_dot(chunks) if invocation.dot_ends else chunks, envelope.lines_for)
    if invocation.key and (message_id := _id_of(settings.spool, invocation.key)):
        with suppress(OSError):  # it is dropped, whoever reads this
            _print(f"{message_id}\n")


class _Envelope:
    """What the command line says of the envelope; the rest is in the header, with -t."""

    def __init__(self, invocation: Invocation, settings: SendmailSettings) -> None:
        self._invocation = invocation
        self._domains = settings.domains
        self._notify = f"NOTIFY={invocation.notify}" if invocation.notify else ""
        self._named = list(receivers_of(invocation.recipients, settings.domains, self._notify))
        if not self._named and not invocation.from_header:
            raise Failure(EX_USAGE, "no recipients: name them on the command line, or say -t")
        given = user_part(_user()[0]) if invocation.sender is None else invocation.sender
        self._sender = sender_of(given, settings.domains)

    def lines_for(self, content: Content) -> Lines:
        receivers = [*self._named, *(self._in_header(content) if self._invocation.from_header else ())]
        if not receivers:
            raise Failure(EX_USAGE, "no recipients in the header: To, Cc and Bcc name none")
        ret = f"RET={self._invocation.ret}" if self._invocation.ret else ""
        envid = f"ENVID={self._invocation.envid}" if self._invocation.envid else ""
        return Lines(
            sender=self._sender,
            sender_parameters=" ".join(each for each in (ret, envid) if each),
            receivers=receivers,
            key=self._invocation.key,
            full_name=self._invocation.full_name or os.environ.get("NAME", "") or _user()[1],
        )

    def _in_header(self, content: Content) -> Iterator[Receiver]:
        try:
            for text, name in named_in_header(content.header):
                yield receiver_of(text, name, self._domains, self._notify)
        except Refused as refusal:
            raise Failure(EX_DATAERR, refusal.problem) from None


def _user() -> tuple[str, str]:
    """Return the name and the full name of who calls; the number, where there is no account."""
    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:
        return str(os.getuid()), ""
    full_name = account.pw_gecos.partition(",")[0].replace("&", account.pw_name.capitalize())
    return account.pw_name, full_name


def _id_of(spool: Path, key: str) -> str | None:
    """Return the queue id of the message with a key of ours, as soon as relayd has taken it; None if nobody tells."""
    from relayd import keys  # with an event loop: for those who ask

    end, rest = time.monotonic() + PATIENCE, _FIRST_LOOK
    while (message_id := keys.ask(spool / keys.NAME, key)) == "" and time.monotonic() < end:
        time.sleep(rest)
        rest = min(2 * rest, _LONGEST_REST)
    return message_id


# other modes


def _talk(settings: SendmailSettings) -> None:
    from relayd.sendmail.smtp import SmtpSession

    signals = interrupting()
    fail_on(signals)

    def drop_one(settings: SendmailSettings, chunks: Iterator[bytes], lines_for: Callable[[Content], Lines]) -> str:
        name = drop(settings, chunks, lines_for)
        fail_on(signals)  # again, for the next
        return name

    with open(0, "rb", closefd=False) as reading, open(1, "wb", closefd=False) as writing:
        SmtpSession(settings, reading, writing, drop_one).run()


def _verify(invocation: Invocation, settings: SendmailSettings) -> None:
    if not invocation.recipients:
        raise Failure(EX_USAGE, "no recipients to be verified")
    for receiver in receivers_of(invocation.recipients, settings.domains):
        for address in settings.domains.recipients(receiver.text, "the recipient"):
            _print(f"{receiver.text}: {address}\n")


def _wake(settings: SendmailSettings) -> None:
    from relayd.control import knock  # with an event loop

    if not knock(settings.spool / "control"):
        raise Failure(EX_UNAVAILABLE, "no relayd answers; it looks by itself, at its check_interval")


def _open_standard_descriptors() -> None:
    """See to it that no file of ours is taken for one of the three that a careless caller has closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _print(text: str) -> None:
    os.write(1, text.encode())


def _tell(name: str, text: str, code: int) -> int:
    with suppress(OSError):
        os.write(2, "".join(f"{name}: {line}\n" for line in text.splitlines()).encode("utf-8", "backslashreplace"))
    return code
