"""Who sent a dropped file and who gets it.

Pure.  First match wins: the X-Sender and X-Receiver lines, then the header.  From the header, the sender is
Return-Path's, else Resent-Sender's or Resent-From's, else Sender's, else the first of From; recipients are those of
To, Cc and Bcc, or, of a message with Resent- recipient fields, those of its most recent Resent- block (RFC 5322
section 3.6.6: blocks are put on top; a block ends where one of its names comes again or a trace field intervenes).
One address that cannot be read refuses the file: nothing is sent to a part of the recipients.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from relayd.mail.address import Address
from relayd.mail.envelope import Envelope
from relayd.mail.errors import InvalidAddress
from relayd.mail.recipient import Recipient
from relayd.mail.tls import TlsWish
from relayd.submission.deadline import read_deadline
from relayd.submission.header import Field, Header
from relayd.submission.mailboxes import MAX_ADDRESSES, addresses_in, text_of, too_many
from relayd.submission.parameters import (
    ReceiverParameters,
    SenderParameters,
    receiver_parameters,
    sender_parameters,
)
from relayd.submission.refusal import Refused, shown

_WHY = 160  # characters of an explanation, which may quote the producer's text once more
MAX_ALIAS_DEPTH = 10  # an alias of an alias, and so on: what is deeper is a mistake

_ANGLE = re.compile(r'(?P<box>(?:"(?:[^"\\]|\\.)*"|[^"<>])*<(?:"(?:[^"\\]|\\.)*"|[^"<>])*>)(?P<rest>.*)')
_PROPER = {
    "x-sender": "X-Sender",
    "x-receiver": "X-Receiver",
    "return-path": "Return-Path",
    "resent-sender": "Resent-Sender",
    "resent-from": "Resent-From",
    "resent-to": "Resent-To",
    "resent-cc": "Resent-Cc",
    "resent-bcc": "Resent-Bcc",
}
_RESENT_RECIPIENTS = ("resent-to", "resent-cc", "resent-bcc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Domains:
    """How an unqualified address is completed: by an alias (keys in lower case), else with `origin`."""

    origin: str
    aliases: Mapping[str, tuple[str, ...]]

    def address(self, text: str, name: str) -> Address:
        """Return the address that `text` of field `name` is, completed with `origin`; raises Refused."""
        if "=?" in text:  # an encoded word is never part of an address (RFC 2047 section 5)
            raise _not_an_address(name, text, "an encoded word in an address")
        try:
            return Address.parse(text if "@" in text else f"{text}@{self.origin}")
        except InvalidAddress as error:
            raise _not_an_address(name, text, str(error)) from None

    def recipients(self, text: str, name: str) -> Iterator[Address]:
        """Yield the addresses that a recipient stands for; raises Refused."""
        if "@" in text or text.lower() not in self.aliases:
            yield self.address(text, name)
        else:
            yield from self._expanded(text, ())

    def _expanded(self, alias: str, above: tuple[str, ...]) -> Iterator[Address]:
        key = alias.lower()
        if key in above or len(above) >= MAX_ALIAS_DEPTH:
            raise Refused(f"the alias {shown(alias)} leads back to itself or too deep", "correct [aliases]")
        for target in self.aliases[key]:
            if "@" not in target and target.lower() in self.aliases:
                yield from self._expanded(target, (*above, key))
            else:
                yield self.address(target, f"the alias {alias}")


def read_envelope(header: Header, domains: Domains, arrived: datetime) -> Envelope:
    """Return the envelope of a file with this header that arrived then.

    Raises:
        Refused: no sender, no recipient, or an address, parameter or deadline that cannot be used.
    """
    senders = [field for field in header.leading if field.name == "x-sender"]
    receivers = [field for field in header.leading if field.name == "x-receiver"]
    block = _resent_block(header.fields)
    parameters = SenderParameters()
    if senders:
        reverse_path, parameters = _declared_sender(senders, domains, arrived)
    else:
        reverse_path = _sender_of(header.fields, block, domains)
    named = _declared_recipients(receivers) if receivers else _recipients_of(header.fields, block)
    return Envelope(
        reverse_path=reverse_path,
        recipients=_numbered(named, domains),
        ret=parameters.ret,
        envid=parameters.envid,
        deadline=read_deadline(header, parameters.by, arrived),
        tls=_wish(header.fields, parameters),
    )


def _wish(fields: Iterable[Field], parameters: SenderParameters) -> TlsWish:
    """RFC 8689 section 4.1: where both are given, REQUIRETLS counts."""
    if parameters.require_tls:
        return TlsWish.REQUIRED
    given = [field.value.strip().lower() for field in fields if field.name == "tls-required"]
    return TlsWish.OPTIONAL if given == [b"no"] else TlsWish.POLICY


def _declared_sender(
    senders: Sequence[Field], domains: Domains, arrived: datetime
) -> tuple[Address | None, SenderParameters]:
    if len(senders) > 1:
        raise Refused(f"there are {len(senders)} X-Sender lines", "leave one")
    text, rest = _mailbox_and_rest(senders[0])
    return domains.address(text, "X-Sender") if text else None, sender_parameters(rest, arrived)


_Named = tuple[str, str, ReceiverParameters]  # the address as written, its field, its parameters


def _declared_recipients(receivers: Iterable[Field]) -> Iterator[_Named]:
    for field in receivers:
        text, rest = _mailbox_and_rest(field)
        yield text, "X-Receiver", receiver_parameters(rest) if rest else _NO_PARAMETERS


_NO_PARAMETERS = ReceiverParameters()


def _mailbox_and_rest(field: Field) -> tuple[str, str]:
    """Return the one address of an envelope line, `""` for `<>`, and the parameters behind it."""
    name = _PROPER[field.name]
    text = text_of(field.value, name)
    match = _ANGLE.fullmatch(text)
    found = addresses_in(match["box"] if match else text, name)
    rest = match["rest"] if match else ""
    if len(found) != 1 or (rest and rest[0] not in " \t"):
        raise Refused(f"{name} must have one address, not {shown(text)}", "write one line for each")
    return found[0], rest


def named_in_header(header: Header) -> Iterator[tuple[str, str]]:
    """Yield the recipients that a message itself names, as they stand there, and in which field; raises Refused."""
    for text, name, _ in _recipients_of(header.fields, _resent_block(header.fields)):
        yield text, name


def _resent_block(fields: Iterable[Field]) -> dict[str, Field]:
    """Return the most recent Resent- block, by name; empty if the message was never sent again."""
    block: dict[str, Field] = {}
    for field in fields:
        if field.name.startswith("resent-"):
            if field.name in block:
                break
            block[field.name] = field
        elif block and field.name in ("received", "return-path"):
            break
    return block


def _sender_of(fields: Sequence[Field], block: Mapping[str, Field], domains: Domains) -> Address | None:
    field = (
        _first(fields, "return-path")
        or block.get("resent-sender")
        or block.get("resent-from")
        or _first(fields, "sender")
        or _first(fields, "from")
    )
    if field is None:
        raise Refused("there is no sender", "add X-Sender, Sender or From")
    name = _PROPER.get(field.name, field.name.title())
    text = text_of(field.value, name)
    if field.name == "return-path" and text == "<>":
        return None
    found = addresses_in(text, name)
    if not found:
        raise Refused(f"{name} has no address: {shown(text)}", "add X-Sender, or correct it")
    return domains.address(found[0], name)


def _recipients_of(fields: Sequence[Field], block: Mapping[str, Field]) -> Iterator[_Named]:
    if any(field.name in _RESENT_RECIPIENTS for field in fields):
        chosen = [block[name] for name in _RESENT_RECIPIENTS if name in block]
    else:
        chosen = [field for name in ("to", "cc", "bcc") for field in fields if field.name == name]
    for field in chosen:
        name = _PROPER.get(field.name, field.name.title())
        for text in addresses_in(text_of(field.value, name), name):
            yield text, name, _NO_PARAMETERS


def _numbered(named: Iterable[_Named], domains: Domains) -> tuple[Recipient, ...]:
    """Return the recipients in order; of equal addresses the first wins."""
    found: dict[Address, Recipient] = {}
    for text, name, parameters in named:
        for address in domains.recipients(text, name):
            if address not in found:
                if len(found) == MAX_ADDRESSES:
                    raise too_many()
                found[address] = Recipient(
                    number=len(found), address=address, notify=parameters.notify, orcpt=parameters.orcpt
                )
    if not found:
        raise Refused("there is no recipient", "add X-Receiver, To, Cc or Bcc")
    return tuple(found.values())


def _first(fields: Iterable[Field], name: str) -> Field | None:
    return next((field for field in fields if field.name == name), None)


def _not_an_address(name: str, text: str, why: str) -> Refused:
    detail = why if len(why) < _WHY else "it is too long"
    return Refused(
        f"{name} has an address that cannot be used, {shown(text)}: {detail}", "correct it and drop it again"
    )
