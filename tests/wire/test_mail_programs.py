"""Programs that hand over mail by a command called sendmail, as they are on a server."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.mta import program
from tests.support.world import Exchanger, World, octets, wait_until

PHP = r"""
$sent = mail("bob@example.test", "=?UTF-8?Q?Gr=C3=BC=C3=9Fe?=", "Guten Tag\r\n.\r\nEnde\r\n",
    "From: Ann <ann@sender.test>\r\nCc: eve@example.test\r\nBcc: zoe@example.test", "-fbounces@sender.test");
exit($sent ? 0 : 1);
"""
PATCH = """\
From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: Ann <ann@sender.test>
Date: Thu, 26 Nov 2026 12:00:00 +0000
Subject: [PATCH] Greet

---
 greeting | 1 +
 1 file changed, 1 insertion(+)

--- /dev/null
+++ b/greeting
@@ -0,0 +1 @@
+hello
--
2.39.5
"""


class Server:
    """A machine whose sendmail is ours."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.sendmail = world.directory / "bin" / "sendmail"
        self.sendmail.parent.mkdir()
        self.sendmail.symlink_to(Path(sysconfig.get_path("scripts")) / "relayd")

    def run(self, *words: str, typed: str = "", environment: Mapping[str, str] | None = None) -> None:
        """Run a program; it has to end well, and complain of nothing."""
        home = {"HOME": str(self._world.directory), "RELAYD_CONFIG": str(self._world.config_path)}
        done = subprocess.run(
            words,
            input=typed,
            capture_output=True,
            text=True,
            env={**os.environ, **home, **(environment or {})},
            cwd=self._world.directory,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def file(self, name: str, content: str) -> str:
        """Write a file of a user's; return its path."""
        path = self._world.directory / name
        path.write_text(content, encoding="utf-8")
        return str(path)


@pytest.fixture
def server(world: World) -> Server:
    world.configure()
    return Server(world)


@pytest.fixture
def mx(world: World) -> Exchanger:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    return mx


def test_php(world: World, mx: Exchanger, server: Server) -> None:
    with world.relaying():
        server.run(program("php"), "-d", f"sendmail_path={server.sendmail} -t -i", "-r", PHP)
        wait_until(lambda: mx.taken, "the delivery")

    (taken,), (message,) = mx.taken, mx.messages
    assert taken.mail_from == "bounces@sender.test"
    assert sorted(taken.rcpt_tos) == ["bob@example.test", "eve@example.test", "zoe@example.test"]
    assert (message["From"], message["Cc"], message["Bcc"]) == ("Ann <ann@sender.test>", "eve@example.test", None)
    assert octets(taken).endswith(b"\r\n\r\nGuten Tag\r\n.\r\nEnde\r\n\r\n"), "PHP adds the last line"


def test_mutt(world: World, mx: Exchanger, server: Server) -> None:
    settings = f'set sendmail="{server.sendmail} -oem -oi"\nset from="ann@sender.test"\nset use_envelope_from=yes\n'
    words = ("-F", server.file("muttrc", settings), "-s", "Grüße", "-b", "zoe@example.test", "bob@example.test")
    with world.relaying():
        server.run(program("mutt"), *words, typed="Guten Tag\n.\nEnde\n")
        wait_until(lambda: mx.taken, "the delivery")

    (taken,), (message,) = mx.taken, mx.messages
    assert taken.mail_from == "ann@sender.test"
    assert sorted(taken.rcpt_tos) == ["bob@example.test", "zoe@example.test"]
    assert (message["To"], message["Bcc"]) == ("bob@example.test", None)
    assert octets(taken).endswith(b"\r\n\r\nGuten Tag\r\n.\r\nEnde\r\n")


def test_mailx(world: World, mx: Exchanger, server: Server) -> None:
    """Its sender is whoever runs it, at our own name."""
    settings = server.file("mailrc", f"set sendmail={server.sendmail}\n")
    with world.relaying():
        server.run(
            program("bsd-mailx"),
            "-s",
            "hello",
            "bob@example.test",
            typed="Good day\n",
            environment={"MAILRC": settings},
        )
        wait_until(lambda: mx.taken, "the delivery")

    (taken,), (message,) = mx.taken, mx.messages
    assert (taken.mail_from or "").endswith("@relay.test")
    assert (taken.rcpt_tos, message["Subject"]) == (["bob@example.test"], "hello")
    assert octets(taken).endswith(b"\r\n\r\nGood day\r\n")


def test_git_send_email(world: World, mx: Exchanger, server: Server) -> None:
    addresses = ("--from=ann@sender.test", "--envelope-sender=ann@sender.test", "--to=bob@example.test")
    words = (f"--smtp-server={server.sendmail}", "--confirm=never", *addresses)
    with world.relaying():
        server.run(
            program("git"),
            *("send-email", "--quiet", *words, server.file("0001.patch", PATCH)),
            environment={f"GIT_{who}_{what}": "ann" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        )
        wait_until(lambda: mx.taken, "the delivery")

    (taken,), (message,) = mx.taken, mx.messages
    assert (taken.mail_from, taken.rcpt_tos) == ("ann@sender.test", ["bob@example.test"])
    assert message["Subject"] == "[PATCH] Greet"
