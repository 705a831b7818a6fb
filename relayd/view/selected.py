"""A selection of messages, as it is written: by the options of the command line, or the parameters of a URL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from relayd.mail.address import Address
from relayd.mail.duration import parse_duration
from relayd.mail.errors import InvalidAddress
from relayd.mail.pattern import parse_pattern
from relayd.spool.selection import Selection, Waiting

WORDS = tuple(each.value for each in Waiting)


def parse_sender(text: str) -> str:
    """Return what `Selection.sender` has, of an address, a pattern of domains, or `<>`; ValueError if it is none."""
    if text in ("", "<>"):
        return ""
    if not text.removeprefix("@").count("@"):
        return "@" + parse_pattern(text.removeprefix("@"))
    try:
        return str(Address.parse(text))
    except InvalidAddress as error:
        raise ValueError(str(error)) from None


def parse_waiting(text: str) -> Waiting:
    """Return how a recipient waits; ValueError for another word."""
    if text not in WORDS:
        raise ValueError(f"status is {', '.join(WORDS)}, not {text!r}")
    return Waiting(text)


PARSED: Mapping[str, Callable[[str], Any]] = {
    "domain": parse_pattern,
    "to": Address.parse,
    "sender": parse_sender,
    "site": str,
    "status": parse_waiting,
    "older": parse_duration,
    "younger": parse_duration,
}


def selection_of(asked: Mapping[str, str], now: datetime) -> Selection:
    """Return the selection that is asked for, by the words of PARSED; ValueError for what makes no sense."""
    if unknown := [key for key in asked if key not in PARSED]:
        raise ValueError(f"no such condition: {unknown[0]}; there are {', '.join(PARSED)}")
    return selection_from({key: PARSED[key](text) for key, text in asked.items()}, now)


def selection_from(parsed: Mapping[str, Any], now: datetime) -> Selection:
    """Return the selection of what was parsed; what is not there, or None, is not asked for."""
    older, younger = parsed.get("older"), parsed.get("younger")
    return Selection(
        domain=parsed.get("domain") or "",
        recipient=parsed.get("to"),
        sender=parsed.get("sender"),
        site=parsed.get("site") or "",
        waiting=parsed.get("status"),
        arrived_before=None if older is None else now - older,
        arrived_after=None if younger is None else now - younger,
    )
