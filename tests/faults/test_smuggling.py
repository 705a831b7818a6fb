"""FAULTS.md, "SMTP smuggling & injection", S1 and S7: what is in a dropped file stays in its message.

Each file goes to three servers, one for each plan; the log of their octets is read as receivers of every kind would.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.faults.kit import delivered, same, unwell
from tests.faults.sample import ALL
from tests.support.process import wait_until
from tests.support.smtp import CHUNKED, LOCK_STEP, PIPELINED, ScriptedServer, serving
from tests.support.smuggling import BARE, ENDS, EVIL, PARSERS, dialogue
from tests.support.world import World

PLANS = {"lock-step.test": LOCK_STEP, "pipelined.test": PIPELINED, "chunked.test": CHUNKED}
EDGES = (
    65_536,
    262_144,
)  # octets: what is written at once, and what is read at once of a body (relayd/spool/bodies.py)


@contextmanager
def three_servers(world: World) -> Iterator[dict[str, ScriptedServer]]:
    """Serve the domain of each plan by a server that offers what it needs."""
    servers = {}
    with ExitStack() as stack:
        for number, (domain, ehlo) in enumerate(PLANS.items(), 1):
            server = ScriptedServer({"EHLO": ehlo}, host=f"127.0.3.{number}", port=world.port)
            servers[domain] = stack.enter_context(serving(world.run, server))
            world.port = server.port
            world.dns.a(domain, server.host)
        yield servers


def envelope(name: str) -> bytes:
    lines = [f"X-Sender: <{name}@sender.test>", *(f"X-Receiver: <{name}@{domain}>" for domain in PLANS), ""]
    return "\n".join(lines).encode()


def small_files() -> dict[str, bytes]:
    """Each end in each place of a small message."""
    files: dict[str, bytes] = {}
    for number, end in enumerate(ENDS):
        smuggled = end + EVIL + b"Subject: evil\r\n\r\nevil" + end
        places = {
            "body": b"Subject: a\r\n\r\nhello" + smuggled + b"bye\r\n",
            "header": b"Subject: a\r\nX-A: b" + smuggled + b"\r\n\r\nhello\r\n",
            "preamble": b"Content-Type: multipart/mixed; boundary=b\r\n\r\npre"
            + smuggled
            + b"--b\r\n\r\nx\r\n--b--\r\n",
            "end": b"Subject: a\r\n\r\nhello" + smuggled,
            "start": smuggled.lstrip(b"\r\n") + b"\r\n\r\nhello\r\n",
        }
        files |= {f"{place}{number}": content for place, content in places.items()}
    return files


def files_with_edges(edge: int) -> dict[str, bytes]:
    """Each end so that the edge is at each of its octets, and before and behind it."""
    files: dict[str, bytes] = {}
    for number, end in enumerate(ENDS):
        for at in range(len(end) + 1):
            name = f"edge{number}x{at}"
            head = b"Subject: a\n\n"
            filler = edge - len(envelope(name)) - len(head) - at
            lines = (b"." + b"y" * 70 + b"\n") * (filler // 72) + b"y" * (filler % 72)
            files[name] = head + lines + end + EVIL + b"evil" + end + b"bye"
    return files if ALL else dict(list(files.items())[:: edge // 20_000])  # the more octets, the fewer


@pytest.mark.parametrize("edge", [0, *EDGES])
def test_whatever_a_file_contains_it_is_one_message_to_every_receiver(world: World, edge: int) -> None:
    """S1: in body, header, preamble, at the very start and end, and cut at every octet where pieces are cut."""
    files = files_with_edges(edge) if edge else small_files()
    with three_servers(world) as servers, world.relaying() as daemon:
        for name, content in files.items():
            world.drop(envelope(name) + content)
        wait_until(lambda: len(delivered(daemon)) == 3 * len(files), "all of them", timeout=60)
        assert not unwell(daemon)

    for domain, server in servers.items():
        arrived = {message.mail.partition("<")[2].partition("@")[0]: message.content for message in server.taken}
        assert sorted(arrived) == sorted(files)
        assert len(server.messages) == len(files)
        for name, content in files.items():
            assert same(content, arrived[name]), (domain, name)
        for connection in server.connections:
            octets = bytes(connection.octets)
            assert not BARE.search(octets)
            for parser in PARSERS:
                verbs = list(dialogue(octets, parser))
                assert verbs.count("MAIL") == verbs.count("RCPT") == len(connection.messages), (domain, parser)
                if domain != "chunked.test":
                    assert verbs.count("content") == len(connection.messages), (domain, parser)


def test_bcc_is_never_sent(world: World) -> None:
    """S7: read as recipients, as README.md says, and cut, folded or not, in whatever case."""
    fields = (
        b"From: ann@sender.test\nTo: bob@lock-step.test\nbCC: eve@pipelined.test,\n\tmallory@chunked.test\nSubject: a\n"
    )
    resent = b"Resent-Bcc: trudy@chunked.test\nResent-From: ann@sender.test\nResent-To: bob@lock-step.test\n" + fields
    with three_servers(world) as servers, world.relaying() as daemon:
        world.drop(fields + b"\nBcc: stays in the body\n")
        world.drop(envelope("ann") + fields + b"\nBcc: stays in the body\n")
        world.drop(resent + b"\nBcc: stays in the body\n")
        wait_until(lambda: len(delivered(daemon)) == 3 + 3 + 2, "all of them")

    messages = [message for server in servers.values() for message in server.taken]
    assert len(messages) == 8
    for message in messages:
        header, _, body = message.content.partition(b"\r\n\r\n")
        assert not re.search(rb"bcc|eve@|mallory@|trudy@", header, re.IGNORECASE)
        assert b"To: bob@lock-step.test\r\nSubject: a" in header
        assert body == b"Bcc: stays in the body\r\n"
