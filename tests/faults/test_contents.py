"""FAULTS.md, "Hostile drop files", F3 and F9: what a file may contain.

Every file goes to a server with 8BITMIME and to one without, in one start of the daemon: each arrives as it was but for
the documented changes, or is refused in words; nothing else happens to any of them.
"""

from __future__ import annotations

import re

from tests.faults.kit import same, told, unwell
from tests.support.process import Daemon, wait_until
from tests.support.smtp import PIPELINED, ScriptedServer, serving
from tests.support.smuggling import BARE
from tests.support.world import World

FIELDS = b"From: ann@sender.test\nSubject: a\n"
TYPE = b"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
SEVEN = "250-mx.test\n250 SIZE 102400000"  # without 8BITMIME
EIGHT = PIPELINED.replace("10240000", "102400000")


def nested(depth: int, leaf: bytes) -> bytes:
    """Return a message of parts in parts."""
    opened = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(depth))
    return (
        FIELDS + b"MIME-Version: 1.0\n" + opened + leaf + b"".join(b"\n--b%d--\n" % n for n in reversed(range(depth)))
    )


def embedded(depth: int, leaf: bytes) -> bytes:
    """Return a message in a message, and so on."""
    return FIELDS + b"MIME-Version: 1.0\n" + b"Content-Type: message/rfc822\n\n" * depth + b"Subject: b\n\n" + leaf


EIGHT_BIT_LEAF = b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGr\xc3\xbc\xc3\x9fe\n"
REFUSED = {  # and a part of the reason
    "empty": (b"", "the file is empty"),
    "only-a-newline": (b"\n", "there is no sender"),
    "no-sender": (b"To: bob@eight.test\n\nhello\n", "there is no sender"),
    "no-recipient": (FIELDS + b"\nhello\n", "there is no recipient"),
    "no-recipient-named": (FIELDS + b"To: undisclosed-recipients:;\n\nhello\n", "there is no recipient"),
    "binary": (bytes(range(256)) * 40, "there is no sender"),
    "continuation-first": (b" folded\n" + FIELDS + b"To: bob@eight.test\n\nhello\n", "begins with a continuation line"),
    "header-of-5-mb": (FIELDS + b"To: bob@eight.test\nX-A: " + b"y" * 5_000_000 + b"\n\nhello\n", "is larger than"),
    "folded-5-mb": (FIELDS + b"To: bob@eight.test\nX-A: y" + b"\n y" * 1_700_000 + b"\n\nhello\n", "is larger than"),
    "no-end-of-header": (FIELDS + b"To: bob@eight.test\n" + b"X-A: y\n" * 200_000, "is larger than"),
    "loop": (b"Received: x\n" * 100 + FIELDS + b"To: bob@eight.test\n\nhello\n", "a mail loop"),
}
TAKEN = {  # both servers get it
    "no-newline-at-the-end": FIELDS + b"\nhello",
    "only-a-header": FIELDS,
    "only-a-header-unended": FIELDS.rstrip(b"\n"),
    "empty-body": FIELDS + b"\n",
    "cr-only": FIELDS.replace(b"\n", b"\r") + b"\rhello\rthere\r",
    "crlf": FIELDS.replace(b"\n", b"\r\n") + b"\r\nhello\r\n",
    "mixed": b"From: ann@sender.test\r\nSubject: a\rX-A: b\n\r\nhello\rthere\r\n\nyou\n\r",
    "dots": FIELDS + b"\n.\n..\n...\n.\r\n.\r.\n",
    "dots-only": FIELDS + b"\n.",
    "nul": FIELDS + b"\na\0b\n\0\n",
    "line-of-998": FIELDS + b"\n" + b"y" * 998 + b"\n",
    "line-of-999": FIELDS + b"\n" + b"y" * 999 + b"\n",
    "line-of-1-mb": FIELDS + b"\n" + b"y" * 1_000_000 + b"\nend\n",
    "utf-8": FIELDS + TYPE + b"\nGr\xc3\xbc\xc3\x9fe\n",
    "eight-bit-unlabelled": FIELDS + b"\n\xff\xfe\x80 latin \xe4\n",
    "ten-thousand-fields": FIELDS + b"".join(b"X-%d: y\n" % n for n in range(10_000)) + b"\nhello\n",
    "content-length": FIELDS + b"Content-Length: 3\n\nhello, and more than three\n",
    "no-empty-line": FIELDS + b"This is no field.\nhello\n",
    "odd-fields": FIELDS + b"X-Empty:\nX Y: z\n\nhello\n",
    "nested-50": nested(50, EIGHT_BIT_LEAF),
    "nested-10000": nested(10_000, b"\nhello\n"),
    "embedded-10000": embedded(10_000, b"hello\n"),
    "a-boundary-unended": FIELDS + b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nhello\n",
    "many-parts": FIELDS + b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 20_000 + b"--b--\n",
    "form-feeds": FIELDS + b"\nhello\x0c\x0bthere\x1c\x85\n",
}
PARTED = {  # the one without 8BITMIME cannot have it as it is, and nothing better can be made of it
    "header-in-utf-8": (FIELDS + b"X-A: Gr\xc3\xbc\xc3\x9fe\n\nhello\n", r"5\.6\.[79]"),
    "header-of-no-charset": (FIELDS + b"X-A: \xff\xfe\n\nhello\n", r"5\.6\.[79]"),
    "nested-10000-in-utf-8": (nested(10_000, EIGHT_BIT_LEAF), r"5\.6\.3"),
    "embedded-10000-in-utf-8": (embedded(10_000, b"Gr\xc3\xbc\xc3\x9fe\n"), r"5\.6\.3"),
}


def envelope(name: str, sender: str = "ann@sender.test") -> bytes:
    return f"X-Sender: <{sender}>\nX-Receiver: <{name}@eight.test>\nX-Receiver: <{name}@seven.test>\n".encode()


def fate(daemon: Daemon, recipient: str) -> str:
    """Return how it ended for a recipient, or ""."""
    pattern = re.compile(rf" r={re.escape(recipient)} status=(delivered|failed) dsn=(\S+) ")
    found = (pattern.search(line) for line in list(daemon.lines))
    return next((f"{match[1]} {match[2]}" for match in found if match), "")


def by_recipient(server: ScriptedServer) -> dict[str, bytes]:
    return {message.recipients[0].partition("<")[2].partition("@")[0]: message.content for message in server.taken}


def test_whatever_a_file_contains_it_arrives_as_it_was_or_is_refused_in_words(world: World) -> None:
    """F3, F9."""
    accepted = {**TAKEN, **{name: content for name, (content, _) in PARTED.items()}}
    mbox = (
        b"From ann@sender.test Thu Jan  1 00:00:00 1970\n" + FIELDS + b"To: mbox@eight.test, mbox@seven.test\n\nhello\n"
    )
    files = {name: envelope(name) + content for name, content in accepted.items()}
    files |= {name: content for name, (content, _) in REFUSED.items()}
    files |= {"null": envelope("null", "") + FIELDS + b"\nhello\n", "mbox": mbox}
    with (
        serving(world.run, ScriptedServer({"EHLO": EIGHT}, host="127.0.3.1")) as eight,
        serving(world.run, ScriptedServer({"EHLO": SEVEN}, host="127.0.3.2", port=eight.port)) as seven,
    ):
        world.port = eight.port
        world.dns.a("eight.test", eight.host)
        world.dns.a("seven.test", seven.host)
        with world.relaying() as daemon:
            for name, content in files.items():
                world.drop(content, name)
            names = [*accepted, "null", "mbox"]
            wait_until(lambda: all(fate(daemon, f"{name}@eight.test") for name in names), "their ends", timeout=60)
            wait_until(lambda: all(fate(daemon, f"{name}@seven.test") for name in names), "their ends", timeout=60)
            assert not unwell(daemon)
        arrived = {"eight": by_recipient(eight), "seven": by_recipient(seven)}
        octets = [bytes(connection.octets) for server in (eight, seven) for connection in server.connections]

    for name, (_, reason) in REFUSED.items():
        (line,) = told(daemon, "rejected", name)
        assert reason in line
        assert reason in (world.spool / "rejected" / f"{name}.reason.txt").read_text()
    assert {name: fate(daemon, f"{name}@eight.test") for name in names} == dict.fromkeys(names, "delivered 2.0.0")
    for name in (*TAKEN, "null", "mbox"):
        assert fate(daemon, f"{name}@seven.test") == "delivered 2.0.0", name
    for name, (_, status) in PARTED.items():
        assert re.fullmatch(f"failed {status}", fate(daemon, f"{name}@seven.test")), name
    for name, content in accepted.items():
        for server in arrived:
            assert name not in arrived[server] or same(content, arrived[server][name]), (name, server)
    assert b"\r\nFrom ann@" not in b"\r\n" + arrived["eight"]["mbox"]
    assert "MAIL FROM:<> " in " ".join(m.mail + " " for m in eight.taken if "null@" in m.recipients[0])
    assert not any(BARE.search(each) for each in octets)
    assert max(len(line) for each in octets for line in each.split(b"\r\n")) <= 999  # a dot may be before it
    assert b"\0" not in b"".join(octets)
    assert b"".join(arrived["seven"].values()).isascii()
