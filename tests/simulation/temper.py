"""How a simulated mail exchanger is: what it offers, how it treats clients, and which faults it has.

A value: a scenario is made of these, so that it can be told, replayed and shrunk.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Temper:
    """One exchanger's.

    `trouble` is the chance that a stage of a conversation is answered by one of `faults`, `cuts` that a connection is
    cut; both only until the world calms down.  Limits and greylisting stay: they are no faults.
    """

    offers: tuple[str, ...] = ("PIPELINING", "SIZE 10240000", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING")
    latency: float = 0.01  # seconds, one way
    service: float = 0.0  # seconds for each command
    final: float = 0.0  # seconds for the end of a message
    trouble: float = 0.0
    cuts: float = 0.0
    faults: tuple[str, ...] = ()
    greylist: float = 0.0  # seconds; 0: it does not
    connections: int = 0  # at once; 0: as many as come
    transactions: int = 0  # of one connection, then 421
    rate: int = 0  # messages in a minute, then a throttling reply
    down: tuple[tuple[float, float], ...] = ()  # from when until when it cannot be reached
    refuses: bool = True  # when down: at once; else nobody answers


# What may be said at which stage instead of what is right, by the name of the fault.  A reply is text; the words
# after it say what follows: "close", "reset", "stall".  "taken": the message is accepted all the same.
REPLIES: dict[str, dict[str, tuple[str, ...]]] = {
    "greeting": {
        "4yz": ("450 4.3.2 not now",),
        "5yz": ("554 5.7.1 no service",),
        "421": ("421 4.3.2 going down|close", "421 4.7.0 too many connections from your host|close"),
        "garbage": ("rubbish", "220-mx.test\r\n250 mx.test"),
        "wrong": ("354 go ahead", "150 wait"),
        "glued": ("220 mx.test\r\n250 2.0.0 ok",),
        "close": ("|close", "|reset"),
        "stall": ("|stall",),
    },
    "EHLO": {
        "4yz": ("451 4.3.0 try later",),
        "5yz": ("502 5.5.1 what",),
        "421": ("421 4.3.2 going down|close",),
        "garbage": ("rubbish", "250-mx.test\r\n550 mx.test", "000 what"),
        "wrong": ("354 go ahead", "150 wait"),
        "glued": ("250 mx.test\r\n250 2.0.0 ok",),
        "close": ("|close", "|reset"),
        "stall": ("|stall",),
    },
    "STARTTLS": {
        "4yz": ("454 4.7.0 not now",),
        "5yz": ("502 5.5.1 what",),
        "421": ("421 4.3.2 going down|close",),
        "garbage": ("rubbish",),
        "wrong": ("354 go ahead",),
        "close": ("|close", "|reset"),
        "stall": ("|stall",),
    },
    "MAIL": {
        "4yz": ("451 4.3.0 try later", "452 4.3.1 no room"),
        "5yz": ("550 5.7.1 not from you", "552 5.3.4 too big"),
        "421": ("421 4.3.2 going down|close", "421 4.7.28 rate limited|close"),
        "throttle": ("451 4.7.28 rate limited, slow down", "450 4.7.1 too many messages, try again in 90 seconds"),
        "garbage": ("rubbish", "250-a\r\n550 b", "999 what"),
        "wrong": ("354 go ahead", "150 wait"),
        "close": ("|close", "|reset"),
        "stall": ("|stall",),
    },
    "RCPT": {
        "4yz": ("450 4.2.1 busy", "452 4.5.3 too many recipients", "450 4.2.0 greylisted, try again in 120 seconds"),
        "5yz": ("550 5.1.1 no such user", "552 5.5.3 too many recipients"),
        "421": ("421 4.3.2 going down|close",),
        "garbage": ("rubbish", "550-a\r\n250 b", "000 what"),
        "wrong": ("354 go ahead", "150 wait"),
        "close": ("|close", "|reset"),
        "stall": ("|stall",),
    },
    "DATA": {
        "4yz": ("451 4.3.0 try later",),
        "5yz": ("554 5.7.1 no",),
        "421": ("421 4.3.2 going down|close",),
        "garbage": ("rubbish", "250-a\r\n354 b"),
        "wrong": ("250 2.0.0 ok", "150 wait"),
        "glued": ("354 go ahead\r\n250 2.0.0 queued",),
        "close": ("|close", "|reset"),
        "stall": ("|stall",),
    },
    "BDAT": {
        "4yz": ("451 4.3.0 try later",),
        "5yz": ("554 5.7.1 no",),
        "421": ("421 4.3.2 going down|close",),
        "garbage": ("rubbish",),
        "wrong": ("354 go ahead",),
        "close": ("|close", "|reset"),
        "stall": ("|stall",),
    },
    "final": {
        "4yz": ("451 4.3.0 try later", "452 4.3.1 no room"),
        "5yz": ("554 5.7.1 spam", "550 5.6.0 no"),
        "421": ("421 4.3.2 going down|close",),
        "garbage": ("rubbish", "rubbish|taken", "250-a\r\n550 b"),
        "wrong": ("354 go ahead", "354 go ahead|taken", "150 wait|taken"),
        "close": ("|close", "|reset", "|close taken", "|reset taken"),
        "stall": ("|stall", "|stall taken"),
        "odd": ("200 fine|taken", "252 2.0.0 perhaps|taken", "250 |taken"),
        "after": ("250 2.0.0 queued|close taken", "250 2.0.0 queued|reset taken"),
    },
    "RSET": {
        "4yz": ("451 4.3.0 try later",),
        "421": ("421 4.3.2 going down|close",),
        "garbage": ("rubbish",),
        "close": ("|close", "|reset"),
        "stall": ("|stall",),
    },
    "QUIT": {
        "421": ("421 4.3.2 going down|close",),
        "garbage": ("rubbish",),
        "close": ("|close", "|reset"),
        "stall": ("|stall",),
    },
}

FAULTS = tuple(sorted({name for stage in REPLIES.values() for name in stage}))
