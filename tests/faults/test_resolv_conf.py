"""FAULTS.md, "Hostile DNS", D15: the system's resolver, missing, empty, changed, stopped and started again.

In namespaces of its own: /etc is a copy in which the test writes resolv.conf, and port 53 of loopback is the test's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kit import root_only, unwell
from tests.faults.zones import exchanged
from tests.support.dns import FaultyDns
from tests.support.netns import own_network
from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World

pytestmark = root_only

SECOND = "127.0.0.53"  # another name server's address


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with own_network(), World(tmp_path, dns=FaultyDns(port=53)) as built:
        yield built


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A copy of what Python needs of /etc."""
    copy = tmp_path / "etc"
    copy.mkdir()
    for name in ("passwd", "group", "nsswitch.conf", "hosts", "ld.so.cache", "localtime"):
        if os.path.exists(f"/etc/{name}"):
            shutil.copy(f"/etc/{name}", copy / name)
    shutil.copytree("/etc/ssl", copy / "ssl", ignore_dangling_symlinks=True)
    return copy


def with_etc(world: World, etc: Path) -> Daemon:
    bind = f'mount --bind "{etc}" /etc && exec "$@"'
    return world.daemon(prefix=["unshare", "--mount", "sh", "-c", bind, "sh"])


def write(etc: Path, *lines: str) -> None:
    """Replace resolv.conf as network managers do."""
    (etc / "resolv.conf.new").write_text("".join(f"{line}\n" for line in lines))
    (etc / "resolv.conf.new").rename(etc / "resolv.conf")


def waits(world: World, daemon: Daemon, recipient: str, why: str) -> None:
    """Send to somebody whose domain nobody can look up: it waits, whatever the reason."""
    world.send(recipient)
    daemon.logged(f"r={recipient} status=deferred dsn=4.4.3 .*{why}")


def comes(world: World, mx: Exchanger, *recipients: str) -> None:
    """Wait until these were delivered by themselves."""
    wait_until(lambda: set(recipients) <= {each.rcpt_tos[0] for each in mx.taken}, f"{recipients}")


def test_a_resolver_that_goes_and_comes_fails_no_message(world: World, etc: Path) -> None:
    """D15: missing, empty, nonsense, a server that is not there, another one, stopped, started again."""
    mx = world.exchanger("mx.well.test")
    domains = [f"d{number}.test" for number in range(6)]
    second = FaultyDns(SECOND, 53)
    for name in domains:
        exchanged(world.dns, name, mx.address)
    exchanged(second, "second.test", mx.address)
    world.configure(dns={"nameservers": [], "timeout": "500ms"}, retry={"first": "300ms", "max": "1s"})
    with with_etc(world, etc) as daemon:
        daemon.ready()
        waits(world, daemon, "bob@d0.test", "no name servers: /etc/resolv.conf")
        write(etc)
        waits(world, daemon, "bob@d1.test", "no name servers: /etc/resolv.conf")
        write(etc, "nameserver nonsense", "options \0\xff")
        waits(world, daemon, "bob@d2.test", "")
        write(etc, "search test", "nameserver 127.0.0.99")
        waits(world, daemon, "bob@d3.test", "")
        assert mx.taken == []
        write(etc, "nameserver 127.0.0.1")
        comes(world, mx, *(f"bob@{name}" for name in domains[:4]))

        world.run(second.start())
        write(etc, f"nameserver {SECOND}")
        world.send("bob@second.test")
        comes(world, mx, "bob@second.test")
        world.run(second.stop())

        write(etc, "nameserver 127.0.0.1")
        world.run(world.dns.stop())
        waits(world, daemon, "bob@d4.test", "")
        (etc / "resolv.conf").unlink()
        waits(world, daemon, "bob@d5.test", "no name servers: /etc/resolv.conf")
        world.run(world.dns.start())
        write(etc, "nameserver 127.0.0.99", "nameserver 127.0.0.1")
        comes(world, mx, "bob@d4.test", "bob@d5.test")
        assert not unwell(daemon)
        assert "status=failed" not in daemon.log
        daemon.terminate()
        assert daemon.wait() == 0
