"""DANE as a whole (RFC 7672; RFC.md R30, R31): the daemon, a validating resolver, signed zones and servers with TLS.

Every case of tests/support/dane_cases.py is a domain; the daemon is sent a message for each, and so is Postfix's own
client asked, whose author wrote the RFC: both have to come to the same conclusion.
"""

from __future__ import annotations

import contextlib
import json
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

    def verbs(self, domain: str) -> list[str]:
        servers = self.stages[domain].servers
        return [verb for server in servers for connection in server.connections for verb in connection.verbs]

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


def conclusion_of(line: re.Match[str]) -> str:
    """Return what a line of the log tells, in the words of the cases."""
    if line["status"] != "delivered":
        return line["status"]
    evidence = re.search(r" tls=1\.3/(\w+)", line.string)
    return evidence[1] if evidence else "clear"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mail_goes_as_the_records_demand(ground: Ground, case: Case) -> None:
    line = ground.outcome(case.domain)

    assert conclusion_of(line) == case.expected, line.string
    assert ground.messages(case.domain) == (case.expected != "deferred")
    if case.expected == "deferred":
        assert line["dsn"] in ("4.4.3", "4.7.4", "4.7.5", "4.7.10")
        assert "MAIL" not in ground.verbs(case.domain)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alias-with-records-at-its-target", "host.alias-with-records-at-its-target.secure.test"),
        ("alias-with-records-at-its-own-name", "mx.alias-with-records-at-its-own-name.secure.test"),
        ("alias-of-the-records", "mx.alias-of-the-records.secure.test"),
        ("own-311", "mx.own-311.secure.test"),
        ("no-records", "mx.no-records.secure.test"),
    ],
)
def test_the_server_is_told_the_name_that_its_records_are_under(ground: Ground, name: str, said: str) -> None:
    """RFC 7672 section 8.1, so that it can choose its certificate."""
    domain = f"{name}.{SECURE}"
    ground.outcome(domain)

    (names,) = ground.stages[domain].names.values()
    assert set(names) == {said}


@pytest.mark.parametrize("name", ["anchor-201", "own-301"])
def test_a_resumed_session_is_held_against_the_records_too(ground: Ground, name: str) -> None:
    """What it showed was shown before; nothing is shown again."""
    domain = f"{name}.{SECURE}"
    ground.outcome(domain)

    ground.world.send(f"eve@{domain}")
    line = ground.daemon.logged(rf"r=eve@{re.escape(domain)} status=delivered .*")

    assert "tls=1.3/dane:" in line.string
    (server,) = ground.stages[domain].servers
    assert [connection.resumed for connection in server.connections] == [False, True]


def test_workers_are_told_what_is_to_be_proven(ground: Ground) -> None:
    """A spool and a daemon of their own, whose relayers are in another process."""
    names = [
        "own-312",
        "anchor-not-shown-200",
        "named-domain",
        "useless-short-digest",
        "wrong-digest",
        "named-otherwise",
    ]
    expected = {case.domain: case.expected for case in CASES if case.name in names}
    world = World(ground.world.directory / "workers", processes=1)
    world.directory.mkdir()
    with world:
        world.configure(relay={"port": 25}, dns={"nameservers": [RESOLVER]}, retry={"first": "1h", "max": "1h"})
        with world.relaying() as daemon:
            for domain in expected:
                world.send(f"bob@{domain}")
            found = {domain: conclusion_of(Ground(world, {}, daemon).outcome(domain)) for domain in expected}

    assert len(expected) == len(names)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "verdict", "level"),
    [("own-311", "usable", "require"), ("useless-web-authority", "unusable", "require"), ("no-records", "none", None)],
)
def test_the_command_line_says_what_was_found(ground: Ground, name: str, verdict: str, level: str | None) -> None:
    said = ground.world.command("route", f"{name}.{SECURE}", "--json")

    (host,) = json.loads(said.stdout)["hosts"]
    assert host["dane"]["verdict"] == verdict
    assert host["demand"]["level"] == (level or "opportunistic")


def test_the_command_line_says_why_a_host_is_barred(ground: Ground) -> None:
    said = ground.world.command("route", f"bogus-records.{SECURE}", "--json")

    (host,) = json.loads(said.stdout)["hosts"]
    assert host["dane"]["verdict"] == "broken"
    assert "SERVFAIL" in host["dane"]["why"]


def test_probing_proves_as_relaying_does(ground: Ground) -> None:
    good, bad = (ground.world.command("probe", f"{name}.{SECURE}") for name in ("anchor-201", "wrong-digest"))

    assert (good.returncode, bad.returncode) == (0, 75)
    assert "1.3/dane:2-0-1" in good.stdout
    assert "matches none of its TLSA records" in bad.stdout


@pytest.fixture(scope="module")
def postfix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what Postfix, which asks the same resolver, has to know."""
    directory = tmp_path_factory.mktemp("postfix")
    (directory / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions trust-ad edns0 timeout:1 attempts:1\n")
    main = directory / "main.cf"
    main.write_text("compatibility_level = 3.6\nmyhostname = relay.test\ninet_protocols = ipv4\n")
    os.utime(main, (1_000_000_000, 1_000_000_000))  # one that is new is read again and again, for seconds
    return directory


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_postfix_comes_to_the_same_conclusion(ground: Ground, postfix: Path, case: Case) -> None:
    said = asked_of_postfix(postfix, case.domain)

    assert conclusion(said) == (case.of_one_host or case.expected), said


def asked_of_postfix(directory: Path, domain: str) -> str:
    """Return what posttls-finger says of a domain."""
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
