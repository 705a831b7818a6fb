"""The daemon delivers under the restrictions of systemd/relayd.service, as far as they can be set without systemd.

Which ones are not set, and why: `tests.support.sandbox.NOT_REPRODUCED`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relayd.demo.dns import DnsServer
from tests.support import sandbox
from tests.support.https import HttpsServer, policy_host_address
from tests.support.mta import SmtpSink, free_port
from tests.support.process import Daemon, write_config
from tests.support.smtp import Authority

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "relayd.service"
USER, GROUP = "nobody", "nogroup"  # in the place of relayd, who need not exist here

pytestmark = pytest.mark.skipif(bool(sandbox.unavailable()), reason=sandbox.unavailable() or "-")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool as relayd.tmpfiles makes it, but elsewhere and for USER."""
    spool, snippet = tmp_path / "spool", tmp_path / "relayd.conf"
    lines = (ROOT / "systemd" / "relayd.tmpfiles").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith("d /var/spool/relayd")]
    snippet.write_text(
        "".join(
            f"d {path.replace('/var/spool/relayd', str(spool))} {mode} {USER} {GROUP} -\n"
            for _, path, mode, *_ in words
        )
    )
    subprocess.run(["systemd-tmpfiles", "--create", str(snippet)], check=True, capture_output=True, timeout=30)
    return spool


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer() as server:
        server.mx("example.net", (10, "mx.example.net"))
        server.a("mx.example.net", "127.0.0.1")
        yield server


def confined(
    tmp_path: Path, spool: Path, dns: DnsServer, port: int, *arguments: str, processes: int = 0, ca: Path | None = None
) -> Daemon:
    """Return a daemon, not started yet, for mail exchangers at `port`; it trusts whoever `ca` certifies."""
    config = write_config(
        tmp_path / "config.toml",
        {
            "relay": {
                "hostname": "relay.example.org",
                "spool": str(spool),
                "port": port,
                "allow_loopback": True,
                "check_interval": "500ms",
                "stop_grace": "5s",
                "processes": processes,
            },
            "dns": {"nameservers": [dns.address]},
        },
    )
    prefix = sandbox.prefix(UNIT, user=USER, writable=[spool], visible=[config, *([ca] if ca else [])])
    return Daemon(config, *arguments, prefix=prefix, environment={"SSL_CERT_FILE": str(ca)} if ca else {})


def drop(spool: Path, name: str, owner: str) -> None:
    """Drop a message as `owner`, who writes it in tmp/ and renames it into new/."""
    path = spool / "tmp" / name
    path.write_text(f"From: ann@example.org\nTo: bob@example.net\nSubject: {name}\n\nHello.\n")
    shutil.chown(path, owner)
    path.chmod(0o644)
    path.rename(spool / "new" / name)


@pytest.mark.parametrize("processes", [0, 2])
async def test_the_daemon_delivers_under_the_units_restrictions(
    tmp_path: Path, spool: Path, dns: DnsServer, processes: int
) -> None:
    with SmtpSink() as sink, confined(tmp_path, spool, dns, sink.port, processes=processes) as daemon:
        drop(spool, "before", owner="root")
        await asyncio.to_thread(daemon.ready)
        drop(spool, "own", owner=USER)
        drop(spool, "other", owner="root")

        arrived = await asyncio.to_thread(sink.wait_for, 3)
        daemon.terminate()

        assert await asyncio.to_thread(daemon.wait) == 0
        assert {message.recipients for message in arrived} == {("bob@example.net",)}
        assert sorted(message.raw.partition(b"Subject: ")[2].split()[0] for message in arrived) == [
            b"before",
            b"other",
            b"own",
        ]
        assert list((spool / "new").iterdir()) == []
        assert "not permitted" not in daemon.log
        assert "event=degraded" not in daemon.log


async def test_the_lease_of_the_unit_sees_a_writer_of_another_user(tmp_path: Path, spool: Path, dns: DnsServer) -> None:
    with SmtpSink() as sink, confined(tmp_path, spool, dns, sink.port) as daemon:
        path = spool / "new" / "slow"
        with path.open("w") as writer:
            path.chmod(0o644)
            writer.write("From: ann@example.org\nTo: bob@example.net\nSubject: slow\n\nThe first half,\n")
            writer.flush()
            await asyncio.to_thread(daemon.ready)
            drop(spool, "quick", owner="root")
            await asyncio.to_thread(sink.wait_for, 1)
            await asyncio.sleep(3)  # longer than settle_time: without a lease the half would be taken now

            assert len(sink.messages()) == 1
            writer.write("and the second.\n")

        arrived = await asyncio.to_thread(sink.wait_for, 2)

    assert arrived[1].raw.endswith(b"The first half,\r\nand the second.\r\n")


async def test_a_bounce_is_written_under_the_units_restrictions(tmp_path: Path, spool: Path, dns: DnsServer) -> None:
    dns.mx("example.org", (10, "mx.example.net"))

    with SmtpSink() as sink, confined(tmp_path, spool, dns, sink.port) as daemon:
        await asyncio.to_thread(daemon.ready)
        path = spool / "tmp" / "lost"
        path.write_text("From: ann@example.org\nTo: bob@nowhere.invalid\nSubject: lost\n\nHello.\n")
        path.rename(spool / "new" / "lost")

        [bounce] = await asyncio.to_thread(sink.wait_for, 1)

    assert (bounce.sender, bounce.recipients) == ("", ("ann@example.org",))


async def test_once_ends_under_the_units_restrictions(tmp_path: Path, spool: Path, dns: DnsServer) -> None:
    with confined(tmp_path, spool, dns, free_port(), "--once") as daemon:
        assert await asyncio.to_thread(daemon.wait) == 0


async def test_a_policy_is_fetched_and_kept_under_the_units_restrictions(
    tmp_path: Path, spool: Path, dns: DnsServer
) -> None:
    authority, ca = Authority(), tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    server = HttpsServer(authority.server("mta-sts.example.net"), host=policy_host_address(), port=443)
    text = b"version: STSv1\nmode: testing\nmx: mx.example.net\nmax_age: 86400\n"
    server.answers["/.well-known/mta-sts.txt"] = text
    dns.txt("_mta-sts.example.net", "v=STSv1; id=1")
    dns.a("mta-sts.example.net", server.host)
    async with server:
        with SmtpSink() as sink, confined(tmp_path, spool, dns, sink.port, ca=ca) as daemon:
            await asyncio.to_thread(daemon.ready)
            drop(spool, "one", owner=USER)
            await asyncio.to_thread(sink.wait_for, 1)

    kept = spool / "mta-sts" / "example.net"
    assert json.loads(kept.read_text())["policy"] == text.decode().splitlines()
    assert (kept.stat().st_mode & 0o777, kept.owner()) == (0o600, USER)
    assert "event=degraded" not in daemon.log
