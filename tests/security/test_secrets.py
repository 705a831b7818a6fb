"""No password and no body where it does not belong, at a server that says back to us all that it heard."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.process import Daemon, wait_until
from tests.support.smtp import PasswordCheck, Script, ScriptedServer, serving
from tests.support.world import World

PASSWORD = "s3cret-of-ümlaut"
BODY = "marker-of-the-body-7261"
FORMS = [PASSWORD, *(base64.b64encode(form.encode()).decode() for form in (PASSWORD, f"\0relay\0{PASSWORD}"))]
EXTENSIONS = "250-mx.test\n250-PIPELINING\n250-8BITMIME\n250 AUTH "


def echoing(check: PasswordCheck) -> Callable[[str], str]:
    """Refuse with what was said, and with the password as the server knows it."""

    def answer(line: str) -> str:
        said = check(line)
        return said if said.startswith("334") else f"535-5.7.8 bad: {line}\n535 5.7.8 {PASSWORD} is no password"

    return answer


@contextmanager
def a_server(world: World, mechanism: str, **replies: Script) -> Iterator[ScriptedServer]:
    server = ScriptedServer({"EHLO": EXTENSIONS + mechanism, **replies})
    with serving(world.run, server):
        path = world.directory / "password"
        path.write_text(PASSWORD + "\n", encoding="utf-8")
        path.chmod(0o600)
        route = {"name": "r", "match": ["*"], "hosts": [f"127.0.0.1:{server.port}"], "tls": "none"}
        world.configure(
            route=[{**route, "username": "relay", "password_file": str(path)}], retry={"first": "1h", "max": "1h"}
        )
        yield server


def what_others_can_see(world: World, daemon: Daemon) -> dict[str, bytes]:
    """Return all that relayd tells, and what it has written but for the bodies."""
    seen = {"the log": daemon.log.encode()}
    message_id = daemon.logged(r"q=(\w+) r=bob")[1]
    for words in (["queue", "list"], ["queue", "show", message_id], ["explain", "bob@example.test"], ["doctor"]):
        told = world.command(*words)
        seen[" ".join(words)] = (told.stdout + told.stderr).encode()
    for path in [*world.spool.glob("queue.db*"), *(world.spool / "queue").glob("notes.*")]:
        seen[path.name] = path.read_bytes()
    for pid in [daemon.pid, *children(daemon.pid)]:
        for name in ("cmdline", "environ"):
            seen[f"/proc/{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    return seen


def children(pid: int) -> list[int]:
    listed = [Path(task, "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for each in listed for child in each]


def claim_secrecy(seen: dict[str, bytes], *words: str) -> None:
    for where, octets in seen.items():
        assert not [word for word in words if word.encode() in octets], where


@pytest.mark.parametrize(
    ("world", "mechanism"), [(1, "PLAIN"), (0, "LOGIN"), (1, "CRAM-MD5")], indirect=["world"], ids=str
)
def test_a_server_that_says_the_password_back_does_not_bring_it_into_the_open(world: World, mechanism: str) -> None:
    with a_server(world, mechanism, AUTH=echoing(PasswordCheck("relay", "another"))):
        with world.relaying(environment={"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1"}) as daemon:
            world.drop(a_file("bob@example.test"))
            daemon.logged("status=deferred")
            seen = what_others_can_see(world, daemon)

        assert b"[password] is no password" in seen["the log"]
        assert b"[password] is no password" in seen["queue list"]
        claim_secrecy(seen, *FORMS, BODY)


def test_a_refused_recipient_does_not_bring_the_password_into_a_bounce(world: World) -> None:
    def refusing(line: str) -> str:
        return f"550 5.1.1 {FORMS[2]} / {PASSWORD} may not" if "bob" in line else "250 2.1.5 ok"

    with a_server(world, "PLAIN", RCPT=refusing) as server, world.relaying() as daemon:
        world.drop(a_file("bob@example.test"))
        wait_until(lambda: server.messages, "the bounce")
        daemon.logged("event=notified")
        seen = what_others_can_see(world, daemon)

        [bounce] = [each for each in server.messages if b"Undeliverable" in each.content]
        assert b"[password] / [password] may not" in bounce.content
        claim_secrecy({**seen, "the bounce": bounce.content}, *FORMS, BODY)


def a_file(recipient: str) -> bytes:
    return (
        f"X-Sender: <ann@sender.test>\nX-Receiver: <{recipient}>\nFrom: ann@sender.test\nSubject: hello\n\n{BODY}\n"
    ).encode()
