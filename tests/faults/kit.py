"""What the tests of FAULTS.md's rows share: rounds of the daemon, its memory, its log, and who it runs as."""

from __future__ import annotations

import email
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import pytest

from tests.support import sandbox
from tests.support.process import ROOT, Daemon, wait_until
from tests.support.smuggling import canonical
from tests.support.world import Exchanger, World, octets
from tests.wire.test_message import parts_of

UNIT = ROOT / "systemd" / "relayd.service"
USER = "nobody"  # whom an unprivileged daemon runs as

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to other users")
unprivileged = pytest.mark.skipif(bool(sandbox.unavailable()), reason=sandbox.unavailable() or "-")


def rounds(world: World, exchanger: Exchanger, count: int = 3) -> None:
    """Let the daemon look through the drop directory `count` times: each time a marker is found and delivered."""
    for _ in range(count):
        before = len(exchanger.taken)
        world.send(f"marker@{exchanger.name.removeprefix('mx.')}")
        wait_until(lambda before=before: len(exchanger.taken) > before, "the marker")  # type: ignore[misc]


def told(daemon: Daemon, event: str, file: str) -> list[str]:
    """Return the lines that tell of an event of a file; `file` as the log writes it."""
    start = re.compile(rf" event={event} file={re.escape(file)} ")
    return [line for line in list(daemon.lines) if start.search(line)]


def delivered(daemon: Daemon) -> list[str]:
    """Return the recipients that were delivered, as often as they were."""
    found = (re.search(r" r=(\S+) status=delivered ", line) for line in list(daemon.lines))
    return [match[1] for match in found if match]


def outcome(daemon: Daemon, domain: str) -> str:
    """Return the first outcome that the log tells for a recipient in a domain."""
    pattern = re.compile(rf" r=\S+@{re.escape(domain)} status=(\w+) dsn=(\S+) ")
    found = (pattern.search(line) for line in list(daemon.lines))
    return next((f"{match[1]} {match[2]}" for match in found if match), "")


def bounces(home: Exchanger) -> dict[str, str]:
    """Return what the notifications say, by the domain of their one recipient."""
    found = {}
    for each in home.taken:
        _, (_, block) = parts_of(octets(each))
        found[block["Final-Recipient"].rpartition("@")[2]] = f"{block['Action']} {block['Status']}"
    return found


def unwell(daemon: Daemon) -> list[str]:
    """Return the lines that tell of trouble of relayd's own."""
    sign = re.compile(r"time=\S+ level=\w+ event=(?:trouble|degraded|library) |Traceback")
    return [line for line in list(daemon.lines) if sign.match(line)]


def filled(content: bytes) -> list[bytes]:
    """Return the lines that are not empty: where no empty line ended a header, one is put there."""
    return [line for line in canonical(content).split(b"\r\n") if line]


def same(content: bytes, arrived: bytes) -> bool:
    """Whether a file arrived as it was, but for the ends of its lines and the encoding of its parts."""
    if filled(arrived)[-len(filled(content)) :] == filled(content):
        return True
    before, after = email.message_from_bytes(canonical(content)), email.message_from_bytes(arrived)
    encodings = [part["Content-Transfer-Encoding"] for part in after.walk()]
    return encodings != [None] * len(encodings) and decoded(before) == decoded(after)


def decoded(message: Message) -> list[bytes]:
    """Return the lines of each leaf."""
    return [line for part in message.walk() if not part.is_multipart() for line in filled(leaf(part))]


def leaf(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


def forget_peak(daemon: Daemon) -> None:
    """Let the peak of the daemon's memory begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")


def peak(daemon: Daemon) -> int:
    """Return the most memory that the daemon has had resident, in KiB."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert match
    return int(match[1])


def open_to_all(world: World) -> None:
    """Make the spool as root would for a service that runs as USER, with a drop directory that is open to all."""
    for name in ("", "new", "tmp", "cur", "queue", "rejected"):
        directory = world.spool / name
        directory.mkdir(parents=True, exist_ok=True)
        shutil.chown(directory, USER)
        directory.chmod(0o1777 if name in ("new", "tmp") else 0o700 if name in ("queue", "rejected") else 0o755)


@contextmanager
def relaying_as_nobody(world: World, visible: Sequence[Path] = (), *, lease: bool = False) -> Iterator[Daemon]:
    """Run the daemon under the unit's restrictions, as USER; without `lease`, with no capability at all."""
    unit = world.directory / "relayd.service"
    text = UNIT.read_text()
    unit.write_text(text if lease else re.sub(r"(CapabilityBoundingSet|AmbientCapabilities)=.*", r"\1=", text))
    if not world.config_path.exists():
        world.configure()
    prefix = sandbox.prefix(unit, user=USER, writable=[world.spool], visible=[world.config_path, *visible])
    with Daemon(world.config_path, prefix=prefix) as daemon:
        yield daemon.ready()
        daemon.terminate()
        assert daemon.wait() == 0, daemon.log
