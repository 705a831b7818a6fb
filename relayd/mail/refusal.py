"""What a server means by a refusal: greylisted, throttled, too many connections, or anything else.

Pure.  The code says that it refuses, not why.  Few servers tell so by an enhanced status; most use words, and those
hardly ever change.  Both are read here, and nowhere else: for the attempt stage, which decides when to try again, and
for whoever counts connections.  tests/mail/test_refusal.py has the words of the providers and programs that are meant.

    Each function is total, and looks at `MOST` characters at most, in linear time: the text is a stranger's.
    What is not understood is OTHER, or None: nobody waits for a guess.
    What concerns one mailbox (it gets too much, it is full) is never THROTTLED: the site is well.
"""

from __future__ import annotations

import re
from datetime import timedelta
from enum import Enum

from relayd.mail.reply import Reply

MOST = 2000  # characters of a reply; what it says comes first
SHORTEST = timedelta(seconds=1)  # a shorter delay is none
LONGEST = timedelta(hours=24)  # a longer one is a mistake, theirs or ours
MOST_CONNECTIONS = 1000  # a higher limit is none


class Refusal(Enum):
    """Why, as far as it decides when and how to try again."""

    GREYLISTED = "greylisted"  # as everybody is at first: the same again, later, from the same address
    THROTTLED = "throttled"  # too much of our mail in too short a time
    CROWDED = "crowded"  # too many connections at once
    OTHER = "other"


_BY_STATUS = {
    (7, 28): Refusal.THROTTLED,  # Google
    (7, 652): Refusal.CROWDED,  # Microsoft
}
_MICROSOFT = range(500, 700)  # details of its other statuses for throttling, of subject 7

_KINDS = r"(?:concurrent|simultaneous|parallel|open|active|smtp|tcp|tls|incoming|inbound|client|new|current)"
_CONNECTIONS = r"(?:connections?|sessions?)"
_MAILS = r"(?:messages?|e?-?mails?)"

_GREYLISTED = re.compile(
    r"\bgr[ae]y[- ]?list|\bgreyfix\b"
    r"|\binternal resources? (?:is |are )?temporarily unavailable"  # Mimecast
)
# A plain "refused by policy" that asks to come again and names no policy: rspamd, Plesk, Microsoft.
_COME_AGAIN = re.compile(r"\b(?:try|tried|come|retry|send)\b[ a-z]{0,20}\b(?:again|back|later)\b")
_POLICY = re.compile(
    r"quota|\bfull\b|hostname|\bhelo\b|reverse|\bdns|\bptr\b|not found|block|black|\blisted\b|spam|relay"
    r"|authenti|\bspf\b|\bdkim\b|\bdmarc\b|reputation|policy"
)
_SPAMD = re.compile(r"temporary failure, please try again later\.?")  # OpenBSD's, and nothing else with it

# This connection, or transaction, has had enough: another may begin at once.
_PER_CONNECTION = re.compile(
    rf"\b(?:{_MAILS}|transactions?|recipients?) (?:\w{{1,12}} ){{0,2}}?(?:in|for|on|per)"
    rf" (?:this |one |a |the |each |single |smtp ){{0,2}}{_CONNECTIONS}\b"
)
_ONE_MAILBOX = re.compile(rf"\breceiving {_MAILS}\b|\brecipient has exceeded\b")

_CROWDED = re.compile(
    rf"\btoo many (?:{_KINDS} ){{0,3}}{_CONNECTIONS}\b"
    rf"|\b(?:maximum|max\.?|allowed) (?:allowed )?(?:number of )?(?:{_KINDS} ){{0,3}}{_CONNECTIONS}\b"
    rf"|\b(?:concurrent|simultaneous|parallel) (?:{_KINDS} ){{0,2}}{_CONNECTIONS}\b"
    rf"|\b{_CONNECTIONS} (?:count )?limit\b"
    rf"|\blimit (?:of|on|for) (?:the )?(?:number of )?(?:[0-9]{{1,6}} )?(?:{_KINDS} ){{0,3}}{_CONNECTIONS}\b"
    r"|\bconcurrency limit|\btrop de connexions"
    r"|\ball (?:server|screening) ports are busy"  # Postfix
    r"|\bofr[0-9]{0,3}_104\b|\bhl:icc\b"  # Orange, NetEase
)
_THROTTLED = re.compile(
    r"\brate[- ]?limit|\bthrottl|\bslow(?:er)? down\b|\bagain slower\b"
    r"|\b(?:unusual|unexpected|excessive) (?:rate|amount|volume)"
    rf"|\btoo (?:many|much) {_MAILS}\b|\btoo many (?:recipients|errors|spams) from\b"
    rf"|\b(?:connections?|submission|sending|{_MAILS}) rate\b|\bfrequency limit"
    r"|\btoo (?:quickly|fast|frequently|frequent)\b"
    r"|\bshort (?:period|amount) of time|\b(?:per|this|in the last) hour\b|\bhourly limit"
    r"|\b(?:daily|message|sending) quota exceeded|\bpolicy rejection\W{1,3}quota"
    r"|\[[a-z]{0,4}tss?[0-9]{2}\]|\b4\.16\.5[0-9]"  # Yahoo
    r"|\brp-00[0-9]\b|\brl00000[0-9]\b|\bdyn:t1\b"  # Microsoft, Comcast, AOL
    r"|\bofr[0-9]{0,3}_(?:105|108|109|999)\b|\b(?:hl:ifc|mi:sfq|rp:qrc)\b"  # Orange, NetEase
)

_COUNT = r"(?:[0-9]{1,6} ?|\b(?:an?|one) )"
_UNIT = r"(?:seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
_SPAN = rf"{_COUNT}{_UNIT}"
# Behind these words a number with a unit is a time that we are asked for.
_ASKED = re.compile(
    r"(?:\b(?:try|tried|retry|again|back|gr[ae]y[- ]?list\w{0,5}|deferred|delayed|blocked|rejected|limited"
    r"|accept\w{0,5}|resend|reconnect|deliver\w{0,3})\b[^.;]{0,60}?\b(?:in|for|after)|\bwait(?: for)?)"
    r"(?: (?:at least|about|another|the next))? "
    r"(?:(?P<clock>[0-9]{1,3}:[0-9]{2}:[0-9]{2})(?![0-9:])"
    rf"|(?P<spans>{_SPAN}(?:,? ?(?:and )?{_SPAN}){{0,3}}))"
)
_AMOUNT = re.compile(rf"({_COUNT})({_UNIT})")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# Between a word for a limit and its number.
_FILLER = (
    r"(?:number|of|is|are|to|at|for|from|per|your|this|the|ip|host|client|address"
    rf"|has|been|exceeded|reached|allowed|{_KINDS}|{_CONNECTIONS})"
)
# Behind a number that is an address, a count of something else, or a rate.
_NO_LIMIT = (
    r"[0-9.:]*[0-9]|/[a-z]"
    rf"|[ a-z]{{0,12}}\b(?:{_MAILS}|recipients?|seconds?|minutes?|hours?)\b"
    r"|[ a-z]{0,30}\bper (?:second|minute|hour|day)\b"
)
_LIMIT = re.compile(
    r"\b(?:max(?:imum)?|limit(?:ed)?|at most|no more than|not more than|up to|only|allows?)\b"
    rf"(?:[ .]{{1,2}}{_FILLER}\b){{0,8}}[ .:=(\[]{{0,3}}(?P<limit>[0-9]{{1,5}})(?!{_NO_LIMIT})"
    rf"|(?<![0-9.:/])(?P<allowed>[0-9]{{1,5}}) (?:{_KINDS} ){{0,3}}{_CONNECTIONS} (?:is |are )?(?:allowed|permitted)\b"
)


def refusal(reply: Reply) -> Refusal:
    """Return what a 4yz reply means; or a 5yz one, which may tell of throttling as well: that it is for ever concerns
    the message.  OTHER for any other."""
    if not (reply.transient or reply.permanent):
        return Refusal.OTHER
    if (known := _by_status(reply)) is not None:
        return known
    words = _words(reply)
    if reply.transient and _GREYLISTED.search(words):
        return Refusal.GREYLISTED
    if _concerns_one_mailbox(reply, words) or _PER_CONNECTION.search(words):
        return Refusal.OTHER
    if _CROWDED.search(words):
        return Refusal.CROWDED
    if _THROTTLED.search(words):
        return Refusal.THROTTLED
    return Refusal.GREYLISTED if _asks_to_come_again(reply, words) else Refusal.OTHER


def asks_for_less(reply: Reply) -> bool:
    """Whether it is THROTTLED or CROWDED: whoever sends to that server should send less, or over fewer connections."""
    return refusal(reply) in (Refusal.THROTTLED, Refusal.CROWDED)


def asked_delay(reply: Reply) -> timedelta | None:
    """Return for how long a reply asks us to wait; None where it does not, or not for a time that anybody means."""
    found = _ASKED.search(_words(reply))
    if found is None:
        return None
    if found["clock"]:
        hours, minutes, seconds = map(int, found["clock"].split(":"))
        delay = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    else:
        delay = timedelta(seconds=sum(_seconds(*amount) for amount in _AMOUNT.findall(found["spans"])))
    return delay if SHORTEST <= delay <= LONGEST else None


def stated_connections(reply: Reply) -> int | None:
    """Return the limit of connections at once that a CROWDED reply states, None where it does not.

    A bare number, as in "too many connections (8)", is none: it may be how many there are.
    """
    if refusal(reply) is not Refusal.CROWDED:
        return None
    found = _LIMIT.search(_words(reply))
    if found is None:
        return None
    limit = int(found["limit"] or found["allowed"])
    return limit if 1 <= limit <= MOST_CONNECTIONS else None


def _words(reply: Reply) -> str:
    return " ".join(reply.text[:MOST].lower().split())


def _by_status(reply: Reply) -> Refusal | None:
    if reply.status is None or reply.status.subject != 7:
        return None
    known = _BY_STATUS.get((7, reply.status.detail))
    return Refusal.THROTTLED if known is None and reply.status.detail in _MICROSOFT else known


def _concerns_one_mailbox(reply: Reply, words: str) -> bool:
    """By its status (RFC 3463: subjects address and mailbox), unless the whole connection ends; or by its words."""
    if reply.status is not None and reply.status.subject in (1, 2) and reply.code != 421:
        return True
    return _ONE_MAILBOX.search(words) is not None


def _asks_to_come_again(reply: Reply, words: str) -> bool:
    """Whether it is a greylisting that does not call itself so."""
    if reply.code not in (450, 451):
        return False
    if reply.status is None:
        return _SPAMD.fullmatch(words) is not None
    if (reply.status.subject, reply.status.detail) != (7, 1):
        return False
    return _COME_AGAIN.search(words) is not None and _POLICY.search(words) is None


def _seconds(count: str, unit: str) -> int:
    return (int(count) if count[0].isdigit() else 1) * _SECONDS[unit[0]]
