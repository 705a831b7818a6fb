"""The ESMTP parameters behind an address of an X-Sender or X-Receiver line (RFC 3461 section 4, RFC 2852
section 4, RFC 8689 section 2).

Pure.  Values are checked where they come in, because they go out on the MAIL and RCPT lines and into notifications:
xtext of printable ASCII, and nothing hidden in it that is not printable either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.recipient import Notify
from relayd.submission.refusal import Refused, shown

MAX_ENVID = 100  # characters, RFC 3461 section 4.4
MAX_ORCPT = 500  # characters, RFC 3461 section 4.2

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[2-9A-F][0-9A-F])+")
_ORCPT = re.compile(r"[A-Za-z0-9-]+;(?:[!-*,-<>-~]|\+[2-9A-F][0-9A-F])+")
_BY = re.compile(r"([+-]?[0-9]{1,9});([NR])(T?)")
_BY_MODES = {"N": DeadlineMode.NOTIFY, "R": DeadlineMode.RETURN}
_DELETE = "+7F"
_IGNORED = frozenset({"AUTH", "BODY", "SIZE", "SMTPUTF8"})  # of the hop the message came by, not of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderParameters:
    """RET, ENVID and BY, None where they were not given; REQUIRETLS."""

    ret: str | None = None
    envid: str | None = None
    by: Deadline | None = None
    require_tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverParameters:
    """NOTIFY and ORCPT, None where they were not given."""

    notify: Notify | None = None
    orcpt: str | None = None


def sender_parameters(text: str, arrived: datetime) -> SenderParameters:
    """Parse what follows the address of X-Sender, in a file that arrived then; raises Refused."""
    given = _split(text, "X-Sender", frozenset({"RET", "ENVID", "BY", "REQUIRETLS"}))
    ret, envid = given.get("RET"), given.get("ENVID")
    if ret is not None and ret.upper() not in ("FULL", "HDRS"):
        raise _bad("X-Sender", f"RET={ret}")
    if envid is not None and (len(envid) > MAX_ENVID or not _XTEXT.fullmatch(envid) or _DELETE in envid):
        raise _bad("X-Sender", f"ENVID={envid}")
    if given.get("REQUIRETLS"):
        raise _bad("X-Sender", f"REQUIRETLS={given['REQUIRETLS']}")
    by = _deadline(given["BY"], arrived) if "BY" in given else None
    return SenderParameters(ret=ret.upper() if ret else None, envid=envid, by=by, require_tls="REQUIRETLS" in given)


def _deadline(text: str, arrived: datetime) -> Deadline:
    """Parse a by-value.  Only mode N may name a time that has passed: whoever had the message then told the sender."""
    match = _BY.fullmatch(text.upper())
    if match is None or (match[2] == "R" and int(match[1]) <= 0):
        raise _bad("X-Sender", f"BY={text}")
    at = arrived + timedelta(seconds=int(match[1]))
    return Deadline(at=at, mode=_BY_MODES[match[2]], trace=bool(match[3]))


def receiver_parameters(text: str) -> ReceiverParameters:
    """Parse what follows the address of X-Receiver; raises Refused."""
    given = _split(text, "X-Receiver", frozenset({"NOTIFY", "ORCPT"}))
    orcpt = given.get("ORCPT")
    if orcpt is not None and (len(orcpt) > MAX_ORCPT or not _ORCPT.fullmatch(orcpt) or _DELETE in orcpt):
        raise _bad("X-Receiver", f"ORCPT={orcpt}")
    try:
        notify = Notify.parse(given["NOTIFY"]) if "NOTIFY" in given else None
    except ValueError:
        raise _bad("X-Receiver", f"NOTIFY={given['NOTIFY']}") from None
    return ReceiverParameters(notify=notify, orcpt=orcpt)


def _split(text: str, name: str, known: frozenset[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in text.split():
        keyword, _, value = word.partition("=")
        keyword = keyword.upper()
        if keyword in _IGNORED:
            continue
        if keyword not in known or keyword in given:
            raise _bad(name, word)
        given[keyword] = value
    return given


def _bad(name: str, word: str) -> Refused:
    return Refused(f"{name} has a parameter that cannot be used: {shown(word)}", "correct it and drop the file again")
