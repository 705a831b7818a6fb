"""DANE as a whole (RFC 7672; RFC.md R30, R31): the daemon, a validating resolver, signed zones and servers with TLS.

Every case of tests/support/dane_cases.py is a domain; the daemon is sent a message for each, and so is Postfix's own
client asked, whose author wrote the RFC: both have to come to the same conclusion.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dane_cases import BOGUS, CASES, INSECURE, SECURE, Case, Stage, build
from tests.support.dnssec import AUTHORITY, RESOLVER, SignedInternet
from tests.support.mta import program
from tests.support.netns import own_network
from tests.support.process import Daemon
from tests.support.smtp import serving
from tests.support.world import World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have a network of its own with port 53")


class Ground:
    """The internet, a daemon that was sent a message for each domain, and what it logged."""

    def __init__(self, world: World, stages: dict[str, Stage], daemon: Daemon) -> None:
        self.world = world
        self.stages = stages
        self.daemon = daemon

    def outcome(self, domain: str) -> re.Match[str]:
        """The first attempt's line of the log."""
        return self.daemon.logged(rf"r=bob@{re.escape(domain)} status=(?P<status>\w+) dsn=(?P<dsn>\S+) .*")

    def messages(self, domain: str) -> int:
        return sum(len(server.messages) for server in self.stages[domain].servers)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    directory = tmp_path_factory.mktemp("dane")
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_network(f"{AUTHORITY}/32"))
        internet = SignedInternet(directory / "dns", [SECURE], unsigned=[INSECURE], bogus=[BOGUS])
        stages = build(internet)
        stack.enter_context(internet)
        world = stack.enter_context(World(directory))
        for stage in stages.values():
            for server in stage.servers:
                stack.enter_context(serving(world.run, server))
        world.configure(
            relay={"port": 25},
            dns={"nameservers": [RESOLVER], "timeout": "3s"},
            retry={"first": "1h", "max": "1h"},
        )
        with world.relaying() as daemon:
            for domain in stages:
                world.send(f"bob@{domain}")
            yield Ground(world, stages, daemon)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mail_goes_as_the_records_demand(ground: Ground, case: Case) -> None:
    line = ground.outcome(case.domain)

    evidence = re.search(r" tls=(\S+)", line.string)
    told = evidence[1] if evidence else ""
    if line["status"] == "delivered":
        found = told.removeprefix("1.3/").partition(":")[0] or "clear"
    else:
        found = line["status"]
    assert found == case.expected, line.string
    assert ground.messages(case.domain) == (case.expected != "deferred")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_postfix_comes_to_the_same_conclusion(ground: Ground, case: Case, tmp_path: Path) -> None:
    said = asked_of_postfix(case.domain, tmp_path)

    assert conclusion(said) == (case.of_one_host or case.expected), said


def asked_of_postfix(domain: str, directory: Path) -> str:
    """Return what posttls-finger says of a domain, which asks the same resolver."""
    (directory / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions trust-ad edns0\n")
    (directory / "main.cf").write_text("compatibility_level = 3.6\n")
    bind = f'mount --bind {directory}/resolv.conf /etc/resolv.conf && exec "$@"'
    asking = [program("posttls-finger"), "-l", "dane", "-L", "verbose,summary", domain]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", bind, "sh", *asking],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"MAIL_CONFIG": str(directory)},
    )
    return done.stdout + done.stderr


def conclusion(said: str) -> str:
    """Read what it did, and what Postfix would have done with that: it goes on whatever it finds."""
    usable = "DNSSEC-signed TLSA record" in said and "all TLSA records unusable" not in said
    published = usable or "unusable" in said or "unsupported TLSA" in said
    if re.search(r"(Verified|Trusted) TLS connection established", said) and "Matched DANE" in said:
        return "dane"
    if "TLS connection established" in said:
        return "deferred" if usable else "encrypted"
    return "deferred" if published or "Connected to" not in said else "clear"
