"""Addresses, lists of them, and ESMTP parameters: any text.

What is accepted reads as itself again, and nothing of it can end a command line, a field or a path early.  Where the
standard library finds the list without a defect, and we do not refuse it, both find the same addresses.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.headerregistry import Address as LibraryAddress
from email.headerregistry import AddressHeader, BaseHeader, HeaderRegistry
from typing import cast

from relayd.mail.address import MAX_PATH, Address
from relayd.mail.errors import InvalidAddress
from relayd.submission.mailboxes import addresses_in, text_of
from relayd.submission.parameters import receiver_parameters, sender_parameters
from relayd.submission.refusal import Refused
from tests.fuzz.choices import Choices

WORDS = (
    *(
        b"ann@example.org",
        b"<",
        b">",
        b'"',
        b"\\",
        b"@",
        b".",
        b",",
        b":",
        b";",
        b"(",
        b")",
        b"[192.0.2.1]",
        b" ",
        b"\t",
    ),
    *(b"[IPv6:2001:db8::1]", b"@a,@b:", b"Ann Smith", b"friends:", b"=?utf-8?q?a?=", b"\r\n ", b"\n", b"\0", b"xn--"),
    *(
        "ü".encode(),
        "\u00ad".encode(),
        "\u2028".encode(),
        "。".encode(),
        b"a" * 64,
        b"b." * 120,
        b"ENVID=",
        b"RET=FULL",
    ),
    *(b"NOTIFY=SUCCESS,DELAY", b"ORCPT=rfc822;", b"+2B", b"+7F", b"BY=60;NT", b"SIZE=1", b"=", b"x" * 500),
)
NOW = datetime(2026, 11, 22, tzinfo=UTC)
_REGISTRY = HeaderRegistry()
_PLAIN = re.compile(r"[A-Za-z0-9.@<>,\" !#$%&'*+/=?^_`{|}~-]*")
_DOMAIN = re.compile(r"[a-z0-9_.-]{1,255}|\[[0-9a-fA-FIPv:.]+\]")


def one(octets: bytes) -> None:
    """See the module."""
    choices = Choices(octets)
    kind = choices.number(3)
    raw = choices.mixed(WORDS, 30)
    if kind == 0:
        check_address(raw.decode("utf-8", "surrogateescape"))
    elif kind == 1:
        check_list(raw)
    else:
        check_parameters(raw.decode("utf-8", "replace"))


def check_address(text: str) -> None:
    """Claim it of one address."""
    try:
        address = Address.parse(text)
    except InvalidAddress:
        return
    written = str(address)
    assert Address.parse(written) == address
    assert Address.parse(f"<{written}>") == address
    assert len(written.encode()) <= MAX_PATH
    assert _DOMAIN.fullmatch(address.domain), address
    assert written.isprintable() or not written.isascii(), written
    assert not any(character in written for character in "\r\n\0\x7f"), written
    if not address.local_part.startswith('"'):
        assert not any(character in address.local_part for character in ' <>@,;:()[]\\"'), address


def check_list(raw: bytes) -> None:
    """Claim it of one field."""
    try:
        text = text_of(raw, "To")
        found = addresses_in(text, "To")
    except Refused:
        return
    assert not any(character in text for character in "\r\n\0")
    theirs = library_reading(text) if _PLAIN.fullmatch(text) and "=?" not in text else None
    if theirs is not None and all(found):
        assert [one for one in found if one] == theirs, (text, found, theirs)


def library_reading(text: str) -> list[str] | None:
    """Return what the standard library finds, None if it has something to complain of."""
    try:
        header = cast("AddressHeader", _REGISTRY("To", text))
        addresses: tuple[LibraryAddress, ...] = header.addresses
    except Exception:  # the library's own failures are not ours to find
        return None
    if cast("BaseHeader", header).defects or not all(each.domain for each in addresses):
        return None
    return [each.addr_spec for each in addresses]


def check_parameters(text: str) -> None:
    """Claim it of what stands behind an address."""
    try:
        sender = sender_parameters(text, NOW)
        values = [sender.ret, sender.envid]
    except Refused:
        try:
            receiver = receiver_parameters(text)
            values = [receiver.orcpt, str(receiver.notify) if receiver.notify is not None else None]
        except Refused:
            return
    for value in values:
        assert value is None or re.fullmatch(r"[!-~]{1,500}", value), value
