"""`relayd top` of a daemon at work, and without one."""

from __future__ import annotations

import json
import os
import pty
import struct
import sys
import termios
import time
from contextlib import suppress
from fcntl import ioctl

from tests.support.process import ROOT, wait_until
from tests.support.world import World


def trouble(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    world.domain("gone.test", world.exchanger("mx.gone.test", alive=False))
    mx.on_rcpt = lambda envelope, address: "550 5.1.1 \x1b[31mwho?" if "bad" in address else "250 2.1.5 ok"
    world.configure(retry={"first": "1h", "max": "1h"})


def test_it_shows_what_goes_on_though_there_is_no_http(world: World) -> None:
    trouble(world)
    with world.relaying() as daemon:
        assert json.loads(world.command("top", "--json").stdout)["now"]["why"] == []
        world.send("bob@example.test")
        world.send("bad@example.test")
        world.send("ann@gone.test")
        daemon.logged("event=site-backs-off site=mx.gone.test")
        daemon.logged("r=bad@example.test status=failed")
        wait_until(lambda: max(json.loads(world.command("top", "--json").stdout)["past"]["samples"]["delivered"]), "it")
        shown = world.command("top", "--once").stdout

    assert "mail flows" in shown
    assert "mx.gone.test" in shown
    assert "bad@example.test" in shown
    assert "\x1b[31mwho" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_without_a_daemon_it_says_so(world: World) -> None:
    world.configure()

    done = world.command("top")

    assert done.returncode == 75
    assert "no daemon answers" in done.stderr


def test_in_a_terminal_it_goes_on_until_q_and_leaves_the_screen_as_it_was(world: World) -> None:
    trouble(world)
    with world.relaying():
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(ROOT)
            command = [sys.executable, "-m", "relayd", "--config", str(world.config_path), "top", "--every", "0.5"]
            os.execv(sys.executable, command)
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        said = b""
        end = time.monotonic() + 30
        while said.count(b"mail flows") < 3 and time.monotonic() < end:
            said += os.read(terminal, 10_000)
        os.write(terminal, b"q")
        with suppress(OSError):  # the end of a terminal
            while more := os.read(terminal, 10_000):
                said += more
        _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert said.count(b"mail flows") >= 3
    assert said.endswith(b"\x1b[?25h\x1b[?1049l")
