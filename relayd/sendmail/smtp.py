"""SMTP on standard input and output (`sendmail -bs`): one command, one answer, in order.

For programs of this machine, which may drop any message anyhow: there is neither TLS nor AUTH.  A message is answered
with 250 once it is on the disk.  What the reader must not break:

    A message ends by a dot between two line ends of the kind that the DATA command had; no other line end counts.
    A refused message is read to its end, so that none of it is taken for commands.
    Commands are of bounded length, and so many wrong ones are borne (RFC 5321 section 4.5.3.1.4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO

from relayd.mail.address import Address
from relayd.sendmail.content import Content
from relayd.sendmail.envelope import Lines, Receiver, receiver_of, sender_of
from relayd.sendmail.failure import EX_DATAERR, EX_PROTOCOL, EX_UNAVAILABLE, Failure
from relayd.sendmail.settings import SendmailSettings
from relayd.sendmail.source import data_of
from relayd.submission.mailboxes import text_of
from relayd.submission.parameters import receiver_parameters, sender_parameters
from relayd.submission.refusal import Refused

MAX_COMMAND = 4096  # octets: more than all parameters of RFC 3461 and 6531 together
MAX_RECIPIENTS = 10_000  # of a message
MAX_ERRORS = 20  # wrong commands of a session

_PATH = re.compile(r'(?i)(?P<word>FROM|TO):[ ]?<(?P<path>(?:"(?:[^"\\]|\\.)*"|[^"<> ])*)>(?:[ ]+(?P<rest>.*))?')
_SENDER = frozenset({"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID"})
_RECEIVER = frozenset({"NOTIFY", "ORCPT"})

Drop = Callable[[SendmailSettings, Iterator[bytes], Callable[[Content], Lines]], str]


@dataclass(slots=True)
class _Transaction:
    """A message, from MAIL on."""

    sender: Address | None
    parameters: str
    receivers: list[Receiver] = field(default_factory=list)


class _Answer(Exception):
    """The answer to a command that is wrong."""


class SmtpSession:
    """See the module.  `drop` does with a message what is to be done."""

    def __init__(self, settings: SendmailSettings, reading: BinaryIO, writing: BinaryIO, drop: Drop) -> None:
        self._settings = settings
        self._reading = reading
        self._writing = writing
        self._drop = drop
        self._greeted = False
        self._transaction: _Transaction | None = None
        self._line_end = b"\r\n"
        self._commands: dict[str, Callable[[str], str]] = {
            "HELO": self._helo,
            "EHLO": self._ehlo,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": lambda rest: "250 2.0.0 ok",
            "VRFY": lambda rest: "252 2.1.5 send it, and it will be seen",
            "HELP": lambda rest: "214 2.0.0 see RFC 5321",
        }

    def run(self) -> None:
        """Talk until QUIT, or the end of the input.

        Raises:
            Failure: the input ended within a message.
        """
        self._say(f"220 {self._settings.hostname} ESMTP relayd")
        errors = 0
        while (line := self._command()) is not None:
            verb, _, rest = line.partition(" ")
            if verb.upper() == "QUIT":
                return self._say("221 2.0.0 bye")
            try:
                self._say(self._answer(verb.upper(), rest.strip(" ")))
            except _Answer as wrong:
                errors += 1
                if errors == MAX_ERRORS:
                    return self._say("421 4.7.0 too many wrong commands")
                self._say(str(wrong))
        return None

    def _answer(self, verb: str, rest: str) -> str:
        if verb not in self._commands:
            raise _Answer("500 5.5.2 no such command")
        return self._commands[verb](rest)

    def _command(self) -> str | None:
        """Return the next command, None at the end of the input; one that is too long is no command."""
        line = self._reading.readline(MAX_COMMAND)
        if not line.endswith(b"\n"):
            whole = line
            while whole and not whole.endswith(b"\n"):
                whole = self._reading.readline(MAX_COMMAND)
            return "" if whole else None
        self._line_end = b"\r\n" if line.endswith(b"\r\n") else b"\n"
        return line.removesuffix(self._line_end).decode("utf-8", "replace")

    def _say(self, answer: str) -> None:
        self._writing.write(answer.encode() + b"\r\n")
        self._writing.flush()

    # commands

    def _helo(self, rest: str) -> str:
        self._greet(rest)
        return f"250 {self._settings.hostname}"

    def _ehlo(self, rest: str) -> str:
        self._greet(rest)
        offers = ("PIPELINING", f"SIZE {self._settings.max_message_size}", "8BITMIME", "SMTPUTF8", "DSN")
        lines = (self._settings.hostname, *offers)
        return "".join(f"250-{line}\r\n" for line in lines) + "250 ENHANCEDSTATUSCODES"

    def _greet(self, rest: str) -> None:
        if not rest:
            raise _Answer("501 5.5.4 say who you are")
        self._greeted, self._transaction = True, None

    def _mail(self, rest: str) -> str:
        if not self._greeted:
            raise _Answer("503 5.5.1 say EHLO first")
        if self._transaction is not None:
            raise _Answer("503 5.5.1 there is a sender already")
        path, parameters = _path_and_parameters(rest, "FROM", _SENDER)
        self._check_size(parameters)
        kept = " ".join(each for each in parameters if _keyword(each) in ("RET", "ENVID"))
        try:
            sender_parameters(kept, datetime.now(UTC))
            self._transaction = _Transaction(sender_of(path, self._settings.domains), kept)
        except Refused as refusal:
            raise _Answer(f"501 5.5.4 {refusal.problem}") from None
        except Failure as failure:
            raise _Answer(f"553 5.1.7 {failure}") from None
        return "250 2.1.0 ok"

    def _check_size(self, parameters: list[str]) -> None:
        for each in parameters:
            keyword, _, value = each.partition("=")
            if keyword.upper() == "SIZE" and not (value.isascii() and value.isdigit() and len(value) <= 20):
                raise _Answer("501 5.5.4 SIZE is a number")
            if keyword.upper() == "SIZE" and int(value) > self._settings.max_message_size:
                raise _Answer(f"552 5.3.4 a message has at most {self._settings.max_message_size} octets")
            if keyword.upper() == "BODY" and value.upper() not in ("7BIT", "8BITMIME"):
                raise _Answer("501 5.5.4 BODY is 7BIT or 8BITMIME")

    def _rcpt(self, rest: str) -> str:
        if self._transaction is None:
            raise _Answer("503 5.5.1 say MAIL first")
        path, parameters = _path_and_parameters(rest, "TO", _RECEIVER)
        if len(self._transaction.receivers) >= MAX_RECIPIENTS:
            raise _Answer("452 4.5.3 too many recipients")
        try:
            receiver_parameters(" ".join(parameters))
            receiver = receiver_of(path, "RCPT", self._settings.domains, " ".join(parameters))
        except Refused as refusal:
            raise _Answer(f"501 5.5.4 {refusal.problem}") from None
        except Failure as failure:
            raise _Answer(f"553 5.1.3 {failure}") from None
        self._transaction.receivers.append(receiver)
        return "250 2.1.5 ok"

    def _data(self, rest: str) -> str:
        transaction = self._transaction
        if transaction is None or not transaction.receivers:
            raise _Answer("503 5.5.1 there is no recipient")
        if rest:
            raise _Answer("501 5.5.4 DATA stands alone")
        self._say("354 go on")
        self._transaction = None
        chunks = data_of(self._reading.readline, line_end=self._line_end)
        lines = Lines(
            sender=transaction.sender, sender_parameters=transaction.parameters, receivers=transaction.receivers
        )
        try:
            name = self._drop(self._settings, chunks, lambda content: lines)
        except Failure as failure:
            if failure.code == EX_PROTOCOL:
                raise
            for _ in chunks:
                pass
            return f"{_reply_to(failure)} {failure}"
        return f"250 2.0.0 dropped as {name}"

    def _rset(self, rest: str) -> str:
        self._transaction = None
        return "250 2.0.0 ok"


def _path_and_parameters(rest: str, word: str, known: frozenset[str]) -> tuple[str, list[str]]:
    match = _PATH.fullmatch(rest)
    if match is None or match["word"].upper() != word:
        raise _Answer(f"501 5.5.4 {word}:<address> and its parameters")
    with suppress(Refused):
        text_of(rest.encode(), word)  # no control characters
        parameters = (match["rest"] or "").split()
        if unknown := [each for each in parameters if _keyword(each) not in known]:
            raise _Answer(f"555 5.5.4 {_keyword(unknown[0])[:40]} is not known")
        return match["path"], parameters
    raise _Answer("501 5.5.4 a control character")


def _keyword(parameter: str) -> str:
    return parameter.partition("=")[0].upper()


def _reply_to(failure: Failure) -> str:
    return {EX_UNAVAILABLE: "552 5.3.4", EX_DATAERR: "554 5.6.0"}.get(failure.code, "451 4.3.0")
