"""What arrives at real servers, compared byte by byte with what was dropped."""

from __future__ import annotations

import re

import pytest

from tests.support.mta import Exim, Postfix, Receiver, SmtpSink
from tests.support.process import wait_until
from tests.support.world import World, with_and_without_workers

RECEIVERS = [SmtpSink, Postfix, Exim]
HEADER = b"From: Ann <ann@sender.test>\nTo: bob@example.test\nSubject: %b\n"
ADDED = re.compile(
    rb"Received: by relay\.test \(relayd\)(?:\r\n[ \t])? ?id (?P<id>\w+);(?:\r\n[ \t])? ?[^\r\n]+\r\n"
    rb"(?:(?:Date|Message-ID): [^\r\n]+\r\n){2}"
)

# Each body as it is dropped, with LF or CRLF; what arrives is the same with CRLF and an end of line.
BODIES = {
    "plain": b"\nHello.\n",
    "crlf": b"\r\nHello,\r\n\r\nCRLF.\r\n",
    "dots": b"\n.\n..\n.leading\nin.the.middle\n.\n",
    "smuggling-lf": b"\nbefore\n.\nMAIL FROM:<evil@evil.test>\nRCPT TO:<x@example.test>\nDATA\nevil\n.\n",
    "smuggling-mixed": b"\r\nbefore\r\n.\nMAIL FROM:<e@evil.test>\n\n.\r\nRCPT TO:<x@y.test>\r\n\n.\n\r\nafter\r\n",
    "no-final-newline": b"\nno end",
    "empty-body": b"\n",
    "empty-lines": b"\n\n\n\n",
    "eight-bit": b"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\nGr\xc3\xbc\xc3\x9fe \xe2\x82\xac\n",
    "from-line": b"\nFrom here on\n>From there\n",
    "long": b"\n" + b"\n".join(b"line %d of many" % number for number in range(3000)) + b"\n",
    "three-megabytes": b"\n" + (b".starts with a dot\n" + b"x" * 900 + b"\n") * 3300,
}


def canonical(content: bytes) -> bytes:
    """Return `content` with every line ended by CRLF."""
    lines = re.split(rb"\r\n|\n|\r", content)
    return b"\r\n".join(lines) + (b"\r\n" if lines[-1] else b"")


@pytest.fixture(params=RECEIVERS, ids=lambda kind: str(kind.__name__))
def receiver(request: pytest.FixtureRequest) -> Receiver:
    kind: type[Receiver] = request.param
    return kind()


def relay_to(world: World, receiver: Receiver, **route: object) -> None:
    world.configure(route=[{"name": "mta", "match": ["*"], "hosts": [f"127.0.0.1:{receiver.port}"], **route}])


@with_and_without_workers
def test_bodies_arrive_as_they_were_dropped(world: World, receiver: Receiver) -> None:
    dropped = {}
    with receiver:
        relay_to(world, receiver)
        for name, body in BODIES.items():
            dropped[name.encode()] = HEADER % name.encode() + body
            world.drop(dropped[name.encode()])
        with world.relaying() as daemon:
            arrived = receiver.wait_for(len(BODIES), timeout=60)
            wait_until(lambda: daemon.log.count("status=delivered") == len(BODIES), "the log of all deliveries")

    assert len(arrived) == len(BODIES)
    for message in arrived:
        added = ADDED.match(message.raw)
        assert added, message.raw[:500]
        subject = re.search(rb"^Subject: (\S+)", message.raw, re.MULTILINE)
        assert subject
        assert message.raw[added.end() :] == canonical(dropped[subject[1]]), subject[1]
        assert (message.sender, message.recipients) == ("ann@sender.test", ("bob@example.test",))


@pytest.mark.parametrize("kind", [Postfix, Exim], ids=["Postfix", "Exim"])
@pytest.mark.parametrize(("policy", "told"), [("opportunistic", r"tls=1\.[23]/encrypted"), ("none", r"took=")])
def test_mail_is_encrypted_where_the_policy_lets_it(
    world: World, kind: type[Postfix] | type[Exim], policy: str, told: str
) -> None:
    with kind() as receiver:
        relay_to(world, receiver, tls=policy)
        with world.relaying() as daemon:
            world.send("bob@example.test")
            line = daemon.logged(r"status=delivered .*" + told).string
        assert len(receiver.wait_for(1)) == 1

    assert ("tls=" in line) == (policy != "none")


@with_and_without_workers
def test_mail_goes_only_to_a_server_that_proves_its_name_where_that_is_asked_for(world: World) -> None:
    with Postfix() as receiver:
        relay_to(world, receiver, tls="verify")
        with world.relaying() as daemon:
            world.send("bob@example.test")
            daemon.logged(r"status=deferred dsn=4\.7\.\d+ .*certificate")
        assert receiver.messages() == []


@pytest.mark.parametrize("count", [1, 250])
def test_many_recipients_of_one_message_share_transactions_of_at_most_a_hundred(world: World, count: int) -> None:
    with SmtpSink() as sink:
        relay_to(world, sink)
        with world.relaying():
            world.send(*(f"r{number}@example.test" for number in range(count)))
            sink.wait_for(-(-count // 100))

        sizes = sorted(len(message.recipients) for message in sink.messages())
        assert sizes == sorted([100] * (count // 100) + [count % 100] * bool(count % 100))
