"""The lines that stand before a message in its file: who sent it, who gets it, its key; and a From if it has none.

Pure.  Addresses are checked here, by the daemon's own rules, so that the caller learns at once what would be rejected
later.  Those without a domain stay so: aliases are applied when the file is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import formataddr

from relayd.mail.address import Address, check_local_part
from relayd.mail.errors import InvalidAddress
from relayd.sendmail.content import END, Content
from relayd.sendmail.failure import EX_DATAERR, Failure
from relayd.submission.envelope import Domains
from relayd.submission.key import NAME as KEY
from relayd.submission.mailboxes import addresses_in, text_of
from relayd.submission.refusal import Refused

_MAX_NAME = 128  # characters of a full name, so that its line stays one


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A recipient as the file names it, and its ESMTP parameters (`NOTIFY=NEVER`)."""

    text: str
    parameters: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What the lines say.  `sender` None is nobody; `full_name` is his, for a message without From, and None to leave
    that to the daemon."""

    sender: Address | None
    sender_parameters: str = ""
    receivers: Sequence[Receiver] = ()
    key: str = ""
    full_name: str | None = None

    def before(self, content: Content) -> bytes:
        """Return the octets that come before the fields of a message."""
        lines = [_line("X-Sender", str(self.sender or ""), self.sender_parameters)]
        lines += [_line("X-Receiver", each.text, each.parameters) for each in self.receivers]
        if self.key:
            lines.append(f"{KEY}: {self.key}".encode())
        lines.append(END)
        if self.sender and self.full_name is not None and not content.header.has("from"):
            lines.append(f"From: {_mailbox(self.full_name, self.sender)}".encode())
        return b"".join(line + content.line_end for line in lines)


def _line(name: str, address: str, parameters: str) -> bytes:
    return f"{name}: <{address}>{' ' if parameters else ''}{parameters}".encode()


def _mailbox(full_name: str, address: Address) -> str:
    name = printable_name(full_name)
    if not name:
        return str(address)
    if not address.smtputf8:
        return formataddr((name, str(address)))
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{address}>'


def printable_name(text: str) -> str:
    """Return a full name in one line of printable characters."""
    return "".join(each if each.isprintable() else " " for each in text).strip()[:_MAX_NAME]


def sender_of(text: str, domains: Domains) -> Address | None:
    """Return the address that a sender given by name is, None for nobody.

    Raises:
        Failure: it is none, or several.
    """
    if text in ("", "<>"):
        return None
    try:
        found = addresses_in(_decoded(text, "the sender"), "the sender")
        if len(found) != 1:
            raise Failure(EX_DATAERR, f"the sender is not one address: {text!r}")
        return domains.address(found[0], "the sender") if found[0] else None
    except Refused as refusal:
        raise Failure(EX_DATAERR, refusal.problem) from None


def receivers_of(words: Iterable[str], domains: Domains, parameters: str = "") -> Iterator[Receiver]:
    """Yield the recipients in words of a command line, each of which may have several, with commas.

    Raises:
        Failure: one is no address.
    """
    for word in words:
        try:
            found = addresses_in(_decoded(word, "the recipient"), "the recipient")
        except Refused as refusal:
            raise Failure(EX_DATAERR, refusal.problem) from None
        for text in found:
            yield receiver_of(text, "the recipient", domains, parameters)


def receiver_of(text: str, name: str, domains: Domains, parameters: str = "") -> Receiver:
    """Return the recipient of field `name`; raises Failure."""
    try:
        addresses = list(domains.recipients(text, name))
    except Refused as refusal:
        raise Failure(EX_DATAERR, refusal.problem) from None
    return Receiver(text=str(addresses[0]) if "@" in text else text, parameters=parameters)


def _decoded(text: str, name: str) -> str:
    return text_of(text.encode("utf-8", "surrogateescape"), name)


def user_part(user: str) -> str:
    """Return the name of a user as a local part: quoted if it has to be."""
    try:
        check_local_part(user)
    except InvalidAddress:
        return '"' + user.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return user
