"""The log of the running daemon in each style, and that a sink that nobody reads costs no mail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest

from tests.support.process import ROOT, wait_until
from tests.support.world import World


def objects(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def test_in_json_each_attempt_of_each_recipient_is_one_object_with_the_keys_of_logfmt(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    mx.on_rcpt = lambda envelope, address: "250 ok" if address.startswith("bob") else "450 4.2.0 later please"
    world.configure(log={"style": "json"}, retry={"first": "1h", "max": "1h"})

    with world.relaying() as daemon:
        world.send("bob@example.test", "eve@example.test")
        wait_until(lambda: '"r": "eve@example.test"' in daemon.log, "both outcomes")
        wait_until(lambda: '"r": "bob@example.test"' in daemon.log, "both outcomes")

    attempts = {line["r"]: line for line in objects(daemon.lines) if "r" in line}
    assert len(attempts) == sum('"r":' in line for line in daemon.lines) == 2
    bob, eve = attempts["bob@example.test"], attempts["eve@example.test"]
    assert list(eve) == [
        *("time", "level", "q", "r", "status", "dsn", "n", "host", "addr", "took", "age", "next", "reply"),
    ]
    assert (bob["status"], eve["status"], eve["n"], eve["reply"]) == (
        "delivered",
        "deferred",
        1,
        "450 4.2.0 later please",
    )
    assert isinstance(eve["took"], float)
    assert 2500 <= eve["next"] <= 3600
    assert eve["time"].endswith("Z")


def test_a_reload_changes_style_and_level(world: World) -> None:
    with world.relaying() as daemon:
        daemon.logged("^time=.* level=info event=started")
        world.configure(log={"style": "json"})
        daemon.reload()
        daemon.logged('"event": "reloaded"')
        world.configure(log={"style": "console", "level": "warning"})
        daemon.reload()
        wait_until(lambda: daemon.notify.received("READY=1") and daemon.notify.states.count("READY=1") == 3, "it")
        world.drop(b"nothing\n", "bad.eml")
        daemon.logged(r"^\d\d:\d\d:\d\d warning rejected file=bad.eml reason=")

    assert [line for line in daemon.lines if "stopped" in line] == []


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_mail_goes_out_though_nobody_reads_the_log(world: World, style: str) -> None:
    """Standard error is a full pipe from the start."""
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    world.configure(log={"style": style})
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)

    command = [sys.executable, "-m", "relayd", "--config", str(world.config_path)]
    daemon = subprocess.Popen(
        command, stderr=writing, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd="/", start_new_session=True
    )
    os.close(writing)
    try:
        for number in range(20):
            world.send(f"bob{number}@example.test")
        wait_until(lambda: len(mx.taken) == 20, "mail")
    finally:
        daemon.terminate()
        assert daemon.wait(30) == 0
        os.close(reading)
