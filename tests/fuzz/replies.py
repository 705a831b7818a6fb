"""The reply parser against a plain reading of RFC 5321 section 4.2, for any octets however they are cut.

`check` is also what Hypothesis runs with strategies of its own (tests/relay/test_replies.py).
"""

from __future__ import annotations

import re
from itertools import pairwise

from relayd.mail.reply import Reply
from relayd.relay.capabilities import Capabilities
from relayd.relay.replies import MAX_LINE, MAX_REPLY, ProtocolError, ReplyParser
from tests.fuzz.choices import Choices

_CODE = re.compile(rb"[2-5][0-9]{2}")

WORDS = (
    *(b"250", b"250-", b"421 ", b"\r\n", b"\n", b"\r", b"5.1.1 ", b"2.0.0"),
    *(b"x" * 8190, b"250-" + b"y" * 8000 + b"\r\n"),
)


def one(octets: bytes) -> None:
    """See the module."""
    choices = Choices(octets)
    cuts = [choices.number(70_000) for _ in range(choices.number(5))]
    check(choices.mixed(WORDS, 40), cuts)


def check(octets: bytes, cuts: list[int]) -> list[Reply]:
    """Claim that the parser reads `octets`, cut there, as the reference does; return the replies."""
    expected, broken, rest = reference(octets)
    parser = ReplyParser()
    found: list[Reply] = []
    error = False
    edges = [0, *sorted(min(max(cut, 0), len(octets)) for cut in cuts), len(octets)]
    for start, end in pairwise(edges):
        parser.feed(octets[start:end])
        try:
            while (reply := parser.next()) is not None:
                found.append(reply)
        except ProtocolError:
            error = True
            break
        kept = len(parser._buffer) + sum(len(line) + 1 for line in parser._lines)
        assert kept <= MAX_LINE + MAX_REPLY, kept
    assert error == broken, (error, broken)
    assert found == expected
    if not error:
        assert parser.pending == rest
    for reply in found:
        assert 200 <= reply.code <= 599
        assert reply.status is None or reply.status.category == reply.code // 100
        assert "\n" not in str(reply)
        Capabilities.parse(reply)
    return found


def reference(octets: bytes) -> tuple[list[Reply], bool, bool]:
    """Return the replies, whether what follows them is none, and whether something is left that may become one."""
    found: list[Reply] = []
    lines: list[bytes] = []
    code = b""
    while (end := octets.find(b"\n") + 1) > 0:
        line, octets = octets[:end], octets[end:]
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        well_formed = _CODE.fullmatch(text[:3]) and text[3:4] in (b"", b" ", b"-")
        if len(line) > MAX_LINE or not well_formed or (lines and text[:3] != code):
            return found, True, False
        code = text[:3]
        lines.append(text[4:])
        if sum(len(one) + 1 for one in lines) > MAX_REPLY and (len(lines) > 1 or text[3:4] == b"-"):
            return found, True, False
        if text[3:4] != b"-":
            found.append(Reply.parse(int(code), b"\n".join(lines).decode("utf-8", "replace")))
            lines = []
    return found, len(octets) > MAX_LINE, bool(octets or lines)
