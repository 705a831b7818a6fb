"""FAULTS.md, "SMTP smuggling & injection", S3 to S6: values that want to become commands, parts, or lines."""

from __future__ import annotations

import email
import os
import re
from collections.abc import Container
from email import policy
from email.message import EmailMessage
from itertools import chain

import pytest

from tests.faults.kit import rounds, told, unwell
from tests.faults.sample import ALL
from tests.submission.test_envelope import injections
from tests.support.process import Daemon, wait_until
from tests.support.smtp import CHUNKED, ScriptedServer, serving
from tests.support.world import World, octets

MAIL = re.compile(r"MAIL FROM:<[^\s<>]*>(?: (?:SIZE=\d+|BODY=\w+|RET=\w+|ENVID=[!-~]+|SMTPUTF8))*")
RCPT = re.compile(r"RCPT TO:<[^\s<>]+@[^\s<>]+>(?: (?:NOTIFY=[A-Z,]+|ORCPT=[!-~]+))*")
FOREIGN = re.compile(r"z@w|SIZE|@relay(?!\.test)")  # what no recipient of a vector may have in it
LINE = re.compile(r"time=\S+ level=\w+ (?:event|q)=.+")

TEMPLATES = {
    "receiver": b"X-Sender: <ann@sender.test>\nX-Receiver: <%s>\n\nhello\n",
    "sender": b"X-Sender: <%s>\nX-Receiver: <bob@example.test>\n\nhello\n",
    "to": b"From: ann@sender.test\nTo: %s\n\nhello\n",
    "from": b"From: <%s>\nTo: bob@example.test\n\nhello\n",
    "return-path": b"Return-Path: <%s>\nFrom: ann@sender.test\nTo: bob@example.test\n\nhello\n",
    "orcpt": b"X-Sender: <ann@sender.test>\nX-Receiver: <bob@example.test> ORCPT=rfc822;%s\n\nhello\n",
    "envid": b"X-Sender: <ann@sender.test> ENVID=%s\nX-Receiver: <bob@example.test>\n\nhello\n",
}
# FAULTS.md A13: what aiosmtplib makes of these is another recipient.
REWRITTEN = [b"a@b, c@d", b"@relay:u@d", b"a@b SIZE=1", b"a(comment)@b", b"a>b@c", b"a@b;c", b"a@b\n"]


def tame(daemon: Daemon) -> bool:
    """Whether every line of the log is one line of printable text that begins as it should."""
    return all(LINE.fullmatch(line) and line.isprintable() for line in list(daemon.lines))


def test_no_envelope_becomes_another_command(world: World) -> None:
    """S3, A13: some two hundred and seventy vectors in each of seven places; a server that takes the mail of all."""
    vectors = list(dict.fromkeys([*injections(), *REWRITTEN]))
    places = list(TEMPLATES.items())[: None if ALL else 3]
    files = {f"{place}-{n}": text % v for place, text in places for n, v in enumerate(vectors)}
    with serving(world.run, ScriptedServer({"EHLO": CHUNKED})) as server:
        world.configure(route=[{"name": "all", "match": ["*"], "hosts": [f"127.0.0.1:{server.port}"]}])
        with world.relaying() as daemon:
            for name, content in files.items():
                world.drop(content, name)
                if name.endswith("00"):
                    world.send("marker@example.test")
            wait_until(lambda: fates(daemon, files) == set(files), "the fate of each", timeout=60)
            wait_until(lambda: not world.queue(), "an empty queue")
            assert not unwell(daemon)
            assert tame(daemon)
        commands = [line for connection in server.connections for line in connection.commands]

    assert len(vectors) >= 200
    assert {line.split(" ")[0] for line in commands} <= {"EHLO", "MAIL", "RCPT", "BDAT", "RSET", "QUIT"}
    assert [line for line in commands if line.startswith("MAIL") and not MAIL.fullmatch(line)] == []
    assert [line for line in commands if line.startswith("RCPT") and not RCPT.fullmatch(line)] == []
    assert [line for line in commands if line.startswith("RCPT") and FOREIGN.search(line.partition(">")[0])] == []
    markers = [message for message in server.taken if message.recipients == ["RCPT TO:<marker@example.test>"]]
    assert len(markers) == sum(name.endswith("00") for name in files)
    assert len(list((world.spool / "rejected").glob("*.reason.txt"))) > len(files) / 2


def fates(daemon: Daemon, files: Container[str]) -> set[str]:
    """Return which files were accepted or rejected."""
    found = (re.search(r" event=(?:accepted|rejected) .*?file=(\S+)", line) for line in list(daemon.lines))
    return {match[1] for match in found if match and match[1] in files}


NASTY = [
    b"550-5.1.1 x\r\n550-\r\n550---b\r\n550-Content-Type: message/delivery-status\r\n550-\r\n550 Action: delivered\r\n",
    b"550 x\r\n\r\n--boundary\r\nContent-Type: message/delivery-status\r\n\r\nAction: delivered\r\n",
    b"550 5.1.1 x\nFinal-Recipient: rfc822; eve@example.test\nAction: delivered\r\n",
    b"550 5.1.1 x\rFinal-Recipient: rfc822; eve@example.test\rAction: delivered\r\n",
    b"550 5.1.1 \x1b[2J\x1b]0;owned\x07 \x00 \xff\xfe \xc2\x85 \xe2\x80\xa8 x\r\n",
    b"550 5.1.1 " + b"x" * 1900 + b"\r\n",
    b"".join(b"550-5.1.1 %04d %s\r\n" % (n, b"y" * 60) for n in range(450)) + b"550 5.1.1 end\r\n",  # 32 KiB
    b"550 5.1.1 =_0123456789abcdef --=_ \r\n",
    b"550 4.1.1 the classes disagree\r\n",
    b"550 5.1.1 event=accepted q=1 r=eve@example.test status=delivered\r\n",
    b'550 5.1.1 " level=error event=trouble "\r\n',
    b"550\r\n",
    b"550 \r\n",
]


HOSTILE_FILE = (
    b"X-Sender: <ann@sender.test> ENVID=a+20Action:+20delivered\n"
    b"X-Receiver: <bob%d@example.test> ORCPT=rfc822;bob+20Final-Recipient:+20rfc822;+20eve@example.test\n"
    b"From: ann@sender.test\nTo: bob@example.test\nMessage-ID: <a> --=_b\n"
    b"Subject: x\n --boundary\n =?utf-8?q?=0D=0AAction:_delivered?=\nContent-Type: message/delivery-status\n\n"
    b"Action: delivered\n"
)


def test_a_notification_has_three_parts_and_one_recipient_whatever_was_said(world: World) -> None:
    """S4: replies, ORCPT, ENVID and fields that want to be fields, blocks or parts of it, or lines of the log."""
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)

    def reply(line: str) -> bytes:
        match = re.search(r"<bob(\d+)@", line)
        assert match
        return NASTY[int(match[1])]

    with serving(world.run, ScriptedServer({"RCPT": reply}, host="127.0.3.1", port=world.port)) as server:
        world.dns.a("example.test", server.host)
        world.configure(retry={"first": "200ms", "max": "400ms", "lifetime": "2s", "warn_after": "0s"})
        with world.relaying() as daemon:
            for number in range(len(NASTY)):
                world.drop(HOSTILE_FILE % number)
            wait_until(lambda: len(home.taken) == len(NASTY), "the notifications")
            assert not unwell(daemon)
            assert tame(daemon)
            assert "@example.test status=delivered" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", daemon.log)

    recipients = {checked(octets(each)) for each in home.taken}
    assert recipients == {f"rfc822; bob{number}@example.test" for number in range(len(NASTY))}


def checked(notification: bytes) -> str:
    """Return the Final-Recipient of a notification that is as it should be."""
    message = email.message_from_bytes(notification, policy=policy.default)
    assert isinstance(message, EmailMessage)
    words, status, original = message.iter_parts()
    assert [part.get_content_type() for part in (words, status, original)] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert not message.defects
    about, recipient = status.iter_parts()
    fields = [name.lower() for name, _ in chain(about.items(), recipient.items())]
    assert len(set(fields)) == len(fields)
    assert recipient["Action"] == "failed"
    assert re.fullmatch(r"5\.\d+\.\d+", recipient["Status"])
    assert re.fullmatch(r"rfc822; bob\d+@example\.test", recipient["Final-Recipient"])
    assert all(" " <= c <= "~" for value in (*about.values(), *recipient.values()) for c in value)
    assert max(map(len, notification.split(b"\r\n"))) <= 998
    return str(recipient["Final-Recipient"])


NAMES = [
    b"a\nb",
    b"a\r\nevent=accepted q=1",
    b"-rf",
    b"--config=x",
    b"\xff\xfe",
    b"caf\xc3\xa9",
    b"x" * 255,
    b"y" * 241 + b".eml",
    b"$(reboot)",
    b"`id`;#&|",
    b"..x",
    b"...",
    b" ",
    b"\x1b[2J",
    b"\xe2\x80\xa8",
    b'"quoted" \\ name',
    b"*",
    b"x.reason.txt",
]
HIDDEN = [name for name in NAMES if name.startswith(b".")]


def test_any_name_of_a_file_is_taken_or_rejected_and_only_told_of(world: World) -> None:
    """S6, F11: whatever octets it has; the log is one line for each, and the command line follows no path."""
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    new = os.fsencode(world.spool / "new")
    os.makedirs(new)
    for number, name in enumerate(NAMES):
        for turn, content in enumerate((b"To: bob%d@example.test\nFrom: ann@sender.test\n\nx\n" % number, b"junk\n")):
            with open(os.path.join(os.fsencode(world.directory), b"staged"), "wb") as file:
                file.write(content)
            if turn == 0:
                os.rename(file.name, os.path.join(new, name))
            else:
                os.rename(file.name, os.path.join(new, b"j" + name[:254]))
    with world.relaying() as daemon:
        wait_until(lambda: len(mx.taken) == len(NAMES) - len(HIDDEN), "all that are not hidden")
        wait_until(lambda: daemon.log.count("event=rejected") == len(NAMES), "the junk")
        rounds(world, mx)
        assert tame(daemon)
        assert not unwell(daemon)
        assert len(told(daemon, "rejected", r'"ja\nb"')) == 1
        for path in ("../../../etc/passwd", "\x1b[2J\n" + "x" * 300):
            shown = world.command("queue", "show", "--", path)
            assert shown.returncode == 65, shown
            assert "root:" not in shown.stdout + shown.stderr
            assert "\x1b" not in shown.stdout + shown.stderr

    assert sorted(os.listdir(new)) == sorted(HIDDEN)
    names = os.listdir(os.fsencode(world.spool / "rejected"))
    assert len(names) == 2 * len(NAMES)
    assert all(any((b"j" + name)[:200] in rejected for rejected in names) for name in NAMES)


@pytest.mark.parametrize("name", ["a\nb.example", "b\u00fccher.example"])
def test_a_name_that_is_none_keeps_the_daemon_from_starting(world: World, name: str) -> None:
    """S5: it would go into EHLO, Received and notifications; the key and the line are told, on one line."""
    world.configure(relay={"hostname": name})
    with world.daemon() as daemon:
        assert daemon.wait() == 78
        assert re.fullmatch(r"relayd: \S+config\.toml:2: relay\.hostname: .+", daemon.log)
