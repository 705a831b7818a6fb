"""What programs hand to sendmail is delivered, once for each key, whatever is killed between."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.process import ROOT
from tests.support.world import World, octets, wait_until


def sendmail(
    world: World, *words: str, content: bytes = b"Subject: x\n\nhello\n"
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "relayd", "sendmail", "-f", "ann@sender.test", *words],
        input=content,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RELAYD_CONFIG": str(world.config_path)},
        timeout=60,
        check=True,
    )


def test_a_message_is_delivered_with_what_it_lacked(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    world.configure(aliases={"root": ["ops@example.test"]})

    with world.relaying():
        sendmail(world, "-t", "-i", content=b"To: root\nBcc: bob@example.test\nX-Receiver: eve@example.test\n\nhello\n")
        wait_until(lambda: mx.taken, "the delivery")

    (taken,) = mx.taken
    assert (taken.mail_from, sorted(taken.rcpt_tos)) == ("ann@sender.test", ["bob@example.test", "ops@example.test"])
    (message,) = mx.messages
    assert message["From"].endswith("ann@sender.test") or "<ann@sender.test>" in message["From"]
    assert message["Date"]
    assert message["Message-ID"].endswith("@relay.test>")
    assert message["Bcc"] is None
    assert octets(taken).endswith(b"X-Receiver: eve@example.test\r\n\r\nhello\r\n"), "content, and nobody's address"


def test_a_key_repeated_returns_the_first_id_and_sends_nothing(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)

    with world.relaying() as daemon:
        first = sendmail(world, "--key", "order 7", "bob@example.test").stdout
        second = sendmail(world, "--key", "order 7", "bob@example.test").stdout
        other = sendmail(world, "--key", "order 8", "bob@example.test").stdout
        wait_until(lambda: len(mx.taken) == 2, "two deliveries")
        daemon.logged(rf'event=repeated q={first.decode().strip()} key="order 7" uid={os.geteuid()} file=\S+\.sendmail')
        listed = world.queue()

    assert len(first.strip()) == 20
    assert (first == second, first == other) == (True, False)
    assert (len(mx.taken), listed) == (2, [])
    assert not [*(world.spool / "queue").glob("??/*"), *(world.spool / "new").iterdir()]


def test_a_key_outlasts_a_killed_daemon_and_its_message(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)

    with world.daemon() as daemon:
        daemon.ready()
        first = sendmail(world, "--key", "order 7", "bob@example.test").stdout
        wait_until(lambda: mx.taken, "the delivery")
        daemon.logged("status=delivered")
        daemon.kill()
        assert sendmail(world, "--key", "order 7", "bob@example.test").stdout == b"", "nobody answers"
    with world.relaying() as daemon:
        daemon.logged(f"event=repeated q={first.decode().strip()}")
        assert sendmail(world, "--key", "order 7", "bob@example.test").stdout == first

    assert len(mx.taken) == 1


def test_a_session_of_smtp_is_delivered(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    said = (
        b"EHLO me\r\nMAIL FROM:<ann@sender.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n"
        b"Subject: x\r\n\r\n..hello\r\n.\r\nQUIT\r\n"
    )

    with world.relaying():
        done = sendmail(world, "-bs", content=said)
        wait_until(lambda: mx.taken, "the delivery")

    assert b"\r\n250 2.0.0 dropped as " in done.stdout
    assert octets(mx.taken[0]).endswith(b"Subject: x\r\n\r\n.hello\r\n")


def test_the_queue_is_listed_and_the_daemon_woken(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    mx.on_rcpt = lambda envelope, address: "450 4.2.0 not now"
    world.domain("example.test", mx)

    with world.relaying() as daemon:
        sendmail(world, "bob@example.test")
        daemon.logged("status=deferred")
        listed = sendmail(world, "-bp").stdout.decode()
        assert sendmail(world, "-q").stderr == b""

    assert "bob@example.test  deferred" in listed
    assert listed.endswith("1 message\n")
