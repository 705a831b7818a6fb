"""A message dropped into the spool is delivered, retried or bounced: the daemon from outside, on a small internet."""

from __future__ import annotations

import email
import mailbox
import os
import shutil
import subprocess
import threading
import time
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.support.world import World, a_message, octets, wait_until, with_and_without_workers


def parts_of(notification: bytes) -> tuple[EmailMessage, list[dict[str, str]]]:
    """Return a notification and its delivery-status blocks."""
    message = email.message_from_bytes(notification, policy=policy.default)
    assert isinstance(message, EmailMessage)
    status = next(part for part in message.walk() if part.get_content_type() == "message/delivery-status")
    return message, [dict(block.items()) for block in status.iter_parts()]


def test_a_file_renamed_into_new_is_delivered(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)

    with world.relaying() as daemon:
        world.send("bob@example.test")
        wait_until(lambda: mx.taken, "the delivery")
        daemon.logged(r"r=bob@example.test status=delivered dsn=2.0.0 n=1 host=mx.example.test")

    assert (mx.taken[0].mail_from, mx.taken[0].rcpt_tos) == ("ann@sender.test", ["bob@example.test"])
    assert octets(mx.taken[0]).endswith(b"\r\n\r\nHello.\r\n")
    assert mx.messages[0]["X-Sender"] is None
    assert "relay.test" in mx.messages[0]["Received"]
    assert mx.messages[0]["Date"]
    assert mx.messages[0]["Message-ID"].endswith("@relay.test>")
    assert world.queue() == []
    assert not list((world.spool / "new").iterdir())


def test_what_was_dropped_before_the_start_is_delivered(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    world.send("bob@example.test")
    shutil.copy(world.send("eve@example.test"), world.spool / "plain.eml")

    with world.relaying():
        wait_until(lambda: len(mx.taken) == 3, "three deliveries")


def test_pythons_maildir_can_be_dropped_into(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = "ann@sender.test", "Bob <bob@example.test>", "eve@example.test"
    message.set_content("Grüße")

    with world.relaying():
        mailbox.Maildir(world.spool, create=False).add(message)
        wait_until(lambda: mx.taken, "the delivery")

    assert sorted(mx.taken[0].rcpt_tos) == ["bob@example.test", "eve@example.test"]
    assert b"eve@" not in octets(mx.taken[0])


@pytest.mark.parametrize("command", ["cp", "cp -p", "mv"])
def test_files_copied_or_moved_to_their_final_name_are_delivered_once(world: World, command: str) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    source = world.directory / "source.eml"
    source.write_bytes(a_message("bob@example.test"))
    os.utime(source, (1_000_000_000, 1_000_000_000))

    with world.relaying():
        subprocess.run([*command.split(), str(source), str(world.spool / "new" / "x.eml")], check=True)
        wait_until(lambda: mx.taken, "the delivery")

    assert len(mx.taken) == 1
    assert world.queue() == []


def test_a_move_from_another_file_system_is_delivered(world: World) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == world.directory.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    source = shared / f"relayd-{os.getpid()}.eml"
    source.write_bytes(a_message("bob@example.test"))

    with world.relaying():
        subprocess.run(["mv", str(source), str(world.spool / "new" / "x.eml")], check=True)
        wait_until(lambda: mx.taken, "the delivery")

    assert octets(mx.taken[0]).endswith(b"\r\n\r\nHello.\r\n")


def test_a_writer_that_pauses_for_ten_seconds_is_waited_for(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    with world.relaying() as daemon:
        with (world.spool / "slow.eml").open("wb", buffering=0) as writing:
            writing.write(a_message("bob@example.test"))
            paused = time.monotonic()
            world.send("eve@example.test")
            wait_until(lambda: time.monotonic() - paused > 10, "the pause", timeout=15)
            writing.write(b"The end.\n")
        daemon.logged("r=bob@example.test status=delivered")

    assert sorted(octets(each).rpartition(b"\r\n\r\n")[2] for each in mx.taken) == [
        b"Hello.\r\n",
        b"Hello.\r\nThe end.\r\n",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_another_users_file_is_copied_and_its_writer_cannot_change_what_was_accepted(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    mx.on_rcpt = lambda envelope, address: "450 4.2.0 not yet" if not released.is_set() else "250 ok"
    released = threading.Event()
    writer = 'exec 3<>"$1"; mv "$1" "$2"; read go; printf EVIL >&3'
    with world.relaying() as daemon:
        for directory in (world.directory, world.spool, world.spool / "new", world.spool / "tmp"):
            directory.chmod(0o777)
        for parent in world.directory.parents[:-1]:
            parent.chmod(parent.stat().st_mode | 0o055)
        source = world.spool / "tmp" / "x.eml"
        source.write_bytes(a_message("bob@example.test"))
        os.chown(source, 65534, 65534)
        with subprocess.Popen(
            ["sh", "-c", writer, "sh", str(source), str(world.spool / "new" / "x.eml")],
            stdin=subprocess.PIPE,
            user="nobody",
            cwd="/",
        ) as process:
            daemon.logged("r=bob@example.test status=deferred")
            process.communicate(b"\n")
            assert process.returncode == 0
        released.set()
        wait_until(lambda: mx.taken, "the delivery")

    assert b"EVIL" not in octets(mx.taken[0])


@with_and_without_workers
def test_a_greylisted_message_is_delivered_on_the_retry(world: World) -> None:
    """H24."""
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    seen: list[str] = []

    def greylist(envelope: Any, address: str) -> str:
        seen.append(address)
        return "451 4.7.1 greylisted, come back in 1 second" if len(seen) == 1 else "250 ok"

    mx.on_rcpt = greylist
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged(r"status=deferred dsn=4.7.1 n=1 .*next=")
        daemon.logged(r"status=delivered .*n=2")

    assert len(mx.taken) == 1


@with_and_without_workers
def test_a_refused_recipient_bounces_and_does_not_stop_the_others(world: World) -> None:
    mx, home = world.exchanger("mx.example.test"), world.exchanger("mx.sender.test")
    world.domain("example.test", mx)
    world.domain("sender.test", home)
    mx.on_rcpt = lambda envelope, address: "550 5.1.1 no such user" if address.startswith("bob") else "250 ok"

    with world.relaying():
        world.send("bob@example.test", "eve@example.test")
        wait_until(lambda: mx.taken and home.taken, "the delivery and the bounce")

    assert mx.taken[0].rcpt_tos == ["eve@example.test"]
    assert home.taken[0].mail_from == "<>"
    message, (_, recipient) = parts_of(octets(home.taken[0]))
    assert message["To"] == "ann@sender.test"
    assert message["Auto-Submitted"] == "auto-replied"
    assert recipient["Final-Recipient"] == "rfc822; bob@example.test"
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.1.1")
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"


def test_a_bounce_is_never_bounced(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    mx.on_rcpt = lambda envelope, address: "550 5.1.1 no such user"

    with world.relaying() as daemon:
        world.send("bob@example.test", sender="")
        daemon.logged("status=failed")

    assert world.queue() == []


@with_and_without_workers
def test_the_second_exchanger_is_used_when_the_first_is_dead(world: World) -> None:
    dead, alive = world.exchanger("mx1.example.test", alive=False), world.exchanger("mx2.example.test")
    world.domain("example.test", dead, alive)

    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged(r"status=delivered .* host=mx2.example.test")


def test_a_domain_that_does_not_exist_bounces_at_once(world: World) -> None:
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)

    with world.relaying():
        world.send("bob@nowhere.test")
        wait_until(lambda: home.taken, "the bounce")

    assert parts_of(octets(home.taken[0]))[1][1]["Status"] == "5.1.2"


def test_a_domain_that_cannot_be_looked_up_is_tried_again(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.dns.servfail("example.test")

    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged(r"status=deferred dsn=4.4.3")
        world.dns.remove("example.test")
        world.domain("example.test", mx)
        wait_until(lambda: mx.taken, "the delivery")


def test_a_domain_with_a_null_mx_bounces_without_a_connection(world: World) -> None:
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)
    world.dns.null_mx("no-mail.test")

    with world.relaying():
        world.send("bob@no-mail.test")
        wait_until(lambda: home.taken, "the bounce")

    assert parts_of(octets(home.taken[0]))[1][1]["Status"] == "5.1.10"


def test_a_message_that_nobody_takes_in_its_lifetime_bounces(world: World) -> None:
    home, dead = world.exchanger("mx.sender.test"), world.exchanger("mx.example.test", alive=False)
    world.domain("sender.test", home)
    world.domain("example.test", dead)
    world.configure(retry={"lifetime": "2s", "warn_after": "1s"})

    with world.relaying():
        world.send("bob@example.test")
        wait_until(lambda: len(home.taken) == 2, "a warning and a bounce")

    told = [parts_of(octets(each))[1][1] for each in home.taken]
    assert [(each["Action"], each["Status"]) for each in told] == [("delayed", "4.4.1"), ("failed", "5.4.7")] or [
        each["Action"] for each in told
    ] == ["delayed", "failed"]
    assert told[1]["Status"] == "5.4.7"


def test_success_is_told_when_it_was_asked_for_and_the_next_hop_will_not(world: World) -> None:
    mx, home = world.exchanger("mx.example.test"), world.exchanger("mx.sender.test")
    world.domain("example.test", mx)
    world.domain("sender.test", home)

    with world.relaying():
        world.send("bob@example.test NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;robert@old.test")
        wait_until(lambda: home.taken, "the notification")

    block = parts_of(octets(home.taken[0]))[1][1]
    assert block["Action"] == "relayed"
    assert block["Original-Recipient"] == "rfc822; robert@old.test"


@with_and_without_workers
def test_one_transaction_carries_the_recipients_of_one_message_at_one_site(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("a.test", mx)
    world.domain("b.test", mx)

    with world.relaying():
        world.send("first@a.test")
        world.send("first@b.test")
        wait_until(lambda: len(mx.taken) == 2, "that both domains are known to have the same exchanger")
        world.send("bob@a.test", "eve@b.test", "eve@b.test")
        wait_until(lambda: len(mx.taken) > 2, "the delivery")

    assert [sorted(each.rcpt_tos) for each in mx.taken[2:]] == [["bob@a.test", "eve@b.test"]]


def test_unqualified_recipients_get_their_alias_or_the_origin(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    world.domain("origin.test", mx)
    world.configure(relay={"origin": "origin.test"}, aliases={"root": ["ops@example.test"]})

    with world.relaying():
        world.drop(b"From: root\nTo: root, www-data\nSubject: cron\n\nout\n")
        wait_until(lambda: sum(len(each.rcpt_tos) for each in mx.taken) == 2, "both")

    assert sorted(r for each in mx.taken for r in each.rcpt_tos) == ["ops@example.test", "www-data@origin.test"]
    assert mx.taken[0].mail_from == "root@origin.test"


def test_what_cannot_be_understood_is_kept_in_rejected_with_a_reason(world: World) -> None:
    with world.relaying() as daemon:
        world.drop(b"Subject: to nobody\n\nhello\n", "lost.eml")
        daemon.logged("event=rejected file=lost.eml")

    assert (world.spool / "rejected" / "lost.eml").read_bytes() == b"Subject: to nobody\n\nhello\n"
    assert (world.spool / "rejected" / "lost.eml.reason.txt").read_text().strip()


def test_the_message_id_is_the_same_on_every_attempt(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    offered: list[bytes] = []

    def refuse_once(envelope: Any, address: str) -> str:
        offered.append(octets(envelope))
        return "451 4.3.0 again" if len(offered) == 1 else "250 ok"

    mx.on_data = refuse_once
    with world.relaying():
        world.send("bob@example.test")
        wait_until(lambda: mx.taken, "the delivery")

    assert offered[0] == offered[1]
