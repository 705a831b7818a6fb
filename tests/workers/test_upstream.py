"""The daemon as a worker's relayers see it: what stays noted, and how long."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.outcome import Delivered
from relayd.mail.reply import Reply
from relayd.spool.notes import Notes, read
from relayd.workers.channel import Channel
from relayd.workers.upstream import Upstream
from tests.relay.kit import NOW, a_delivery

BOOT = "boot"


def an_attempt(delivery: Delivery) -> Attempt:
    return Attempt(delivery=delivery, outcomes={0: Delivered(Reply(250))}, ended=NOW)


async def test_what_the_daemon_could_not_record_stays_noted_after_the_end_of_its_run(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(lambda told: None, lambda: None)
    await channel.open(ours)
    notes = Notes(tmp_path / "notes", BOOT, size=300)
    upstream = Upstream(channel, notes, frozenset())
    recorded, refused, undone = [replace(a_delivery(name=name), lease=7) for name in ("M1", "M2", "M3")]
    upstream.begin(1, [recorded, refused, undone])
    for each in (recorded, refused, undone):
        notes.ending(each.lease, each.id)
    reports = [asyncio.ensure_future(upstream.report(an_attempt(each))) for each in (recorded, refused)]

    upstream.recorded(0)
    upstream.refused(1, "not recorded: stopped")
    upstream.end([recorded, refused, undone])
    for lease in range(100, 200):  # until the file has been begun anew
        notes.beginning(lease, "M4")
        notes.over([(lease, "M4")])

    noted = read(tmp_path / "notes", BOOT)
    assert noted is not None
    assert noted.ending == {(7, "M2")}
    await reports[0]
    with pytest.raises(QueueError, match="stopped"):
        await reports[1]
    channel.close()
    theirs.close()
    notes.close()
