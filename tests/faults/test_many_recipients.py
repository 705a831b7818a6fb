"""FAULTS.md, "Hostile drop files", F6: a file with very many recipients, some of them named again and again."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.faults.kit import delivered, forget_peak, peak, rounds, unwell
from tests.faults.sample import ALL
from tests.support.process import wait_until
from tests.support.smtp import ScriptedServer, serving
from tests.support.world import World

RECIPIENTS = 98_000 if ALL else 2_000  # with those named again, nearly as many as a message may have
MEMORY = 4.0  # KiB for each of them, at most; and 16 MiB whatever their number
ADDRESS = re.compile(r"RCPT TO:<([^>]+)>")


def x_receivers(addresses: list[str]) -> bytes:
    lines = "".join(f"X-Receiver: <{address}>\n" for address in addresses)
    return f"X-Sender: <ann@sender.test>\n{lines}From: ann@sender.test\nSubject: a\n\nhello\n".encode()


def to(addresses: list[str]) -> bytes:
    listed = ",\n ".join(addresses)
    return f"From: ann@sender.test\nTo: {listed}\nSubject: a\n\nhello\n".encode()


@pytest.mark.parametrize("written", [x_receivers, to], ids=lambda written: str(written.__name__))
def test_each_of_very_many_recipients_gets_it_once_and_memory_is_bounded(world: World, written: object) -> None:
    """F6: exact duplicates, the domain in another case and with a trailing dot are the same; the local part is not."""
    assert callable(written)
    marker = world.exchanger("mx.well.test")
    world.domain("well.test", marker)
    distinct = [f"r{n}@example.test" for n in range(RECIPIENTS)] + ["R1@example.test", "r1@other.test"]
    again = ["r1@example.test", "r2@EXAMPLE.test", "r3@example.test.", "r4@Example.Test.", "r1@OTHER.test"] * 200
    with serving(world.run, ScriptedServer(host="127.0.3.1", port=world.port)) as server:
        world.dns.a("example.test", server.host)
        world.dns.a("other.test", server.host)
        with world.relaying() as daemon:
            rounds(world, marker, 1)
            forget_peak(daemon)
            before = peak(daemon)
            world.drop(written([*again[:500], *distinct, *again[500:]]))
            accepted = daemon.logged(r"event=accepted .* recipients=(\d{3,})", timeout=120)
            assert int(accepted[1]) == len(distinct)
            wait_until(lambda: len(daemon.lines) > len(distinct), "nearly all of them", timeout=600)
            wait_until(lambda: daemon.log.count(" status=delivered ") == 1 + len(distinct), "all of them")
            grown = peak(daemon) - before
            assert not unwell(daemon)
            told = Counter(delivered(daemon))
        sent = Counter(match[1] for m in server.taken for line in m.recipients if (match := ADDRESS.match(line)))

    assert sent == dict.fromkeys(distinct, 1)
    assert told == {**dict.fromkeys(distinct, 1), "marker@well.test": 1}
    assert max(len(message.recipients) for message in server.taken) <= 100
    print(f"{RECIPIENTS} recipients: {grown} KiB more at the peak")
    assert grown < 16 * 1024 + MEMORY * RECIPIENTS
