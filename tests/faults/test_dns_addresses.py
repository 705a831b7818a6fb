"""FAULTS.md, "Hostile DNS", D11: names that lead where mail must not go.

In a network of its own, where every address of the world leads to one listener on loopback: a connection to any
address would be seen.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kit import outcome, root_only, unwell
from tests.support.dns import FaultyDns
from tests.support.netns import own_network
from tests.support.process import wait_until
from tests.support.smtp import ScriptedServer, serving
from tests.support.world import World

pytestmark = root_only

OWN = ("203.0.113.7", "2001:db8:7::7")
DENIED = {  # always, but for what relay.allow_loopback allows
    "loopback": "127.0.0.1",
    "loopback-9": "127.255.255.254",
    "loopback-v6": "::1",
    "mapped": "::ffff:127.0.0.1",
    "compatible": "::127.0.0.1",
    "nat64": "64:ff9b::7f00:1",
    "sixtofour": "2002:7f00:1::1",
    "teredo": "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "unspecified": "0.0.0.0",
    "this-network": "0.1.2.3",
    "unspecified-v6": "::",
    "metadata": "169.254.169.254",
    "metadata-mapped": "::ffff:169.254.169.254",
    "metadata-nat64": "64:ff9b::a9fe:a9fe",
    "link-local-v6": "fe80::1",
    "multicast": "224.0.0.1",
    "multicast-v6": "ff02::1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "own": OWN[0],
    "own-v6": OWN[1],
    "own-mapped": f"::ffff:{OWN[0]}",
    "own-sixtofour": "2002:cb00:7107::1",
}
PRIVATE = {  # where relay.allow_private is false
    "ten": "10.1.2.3",
    "one-seven-two": "172.16.9.9",
    "one-nine-two": "192.168.1.1",
    "carrier": "100.64.0.1",
    "unique-local": "fd00::1",
    "ten-mapped": "::ffff:10.1.2.3",
    "ten-nat64": "64:ff9b::a01:203",
}
PUBLIC = {"v4": "198.51.100.9", "v6": "2001:db8:1::9"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with own_network(f"{OWN[0]}/32", f"{OWN[1]}/128"):
        for family, everything in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
            words = ["ip", family, "route", "add", "local", everything, "dev", "lo"]
            subprocess.run(words, check=True, capture_output=True)
        with World(tmp_path) as built:
            yield built


def lead(dns: FaultyDns, name: str, address: str) -> None:
    """Let the only exchanger of a domain be at an address."""
    dns.mx(name, (10, f"mx.{name}"))
    (dns.aaaa if ":" in address else dns.a)(f"mx.{name}", address)


def test_names_lead_to_no_address_of_ours_nor_of_nobody(world: World) -> None:
    """D11: checked when it is looked up and again for each connection; private ones by a switch, literals too."""
    with serving(world.run, ScriptedServer(host="::")) as server:
        world.port = server.port
        for name, address in (DENIED | PRIVATE | PUBLIC).items():
            lead(world.dns, f"{name}.test", address)
        lead(world.dns, "mixed.test", "127.0.0.1")
        world.dns.a("mx.mixed.test", "127.0.0.1", "169.254.169.254", PUBLIC["v4"])
        lead(world.dns, "sender.test", PUBLIC["v6"])
        route = {"name": "local", "match": ["routed.test"], "hosts": [f"127.0.0.1:{server.port}"]}
        settings: dict[str, Any] = {"route": [route], "retry": {"first": "1h", "max": "1h"}}
        world.configure(**settings, relay={"allow_loopback": False})
        well = [f"{name}.test" for name in (*PRIVATE, *PUBLIC)] + ["mixed.test", "routed.test"]
        denied = [f"{name}.test" for name in DENIED]
        literals = [f"[{address}]" if ":" not in address else f"[IPv6:{address}]" for address in DENIED.values()]
        with world.relaying() as daemon:
            for domain in (*well, *denied):
                world.send(f"bob@{domain}")
            for literal in literals:
                world.send(f"bob@{literal}", sender="")
            wait_until(lambda: all(outcome(daemon, domain) for domain in (*well, *denied)), "every outcome")
            assert {domain: outcome(daemon, domain) for domain in well} == dict.fromkeys(well, "delivered 2.0.0")
            assert {domain: outcome(daemon, domain) for domain in denied} == dict.fromkeys(denied, "failed 5.4.6")
            wait_until(lambda: daemon.log.count("event=not-notified") == len(literals), "the literals' end")
            assert daemon.log.count(" status=failed dsn=5.4.6 ") == len(denied) + len(literals)
            wait_until(lambda: len(server.taken) == len(well) + len(denied), "the bounces")

            world.configure(**settings, relay={"allow_loopback": False, "allow_private": False})
            daemon.reload()
            daemon.logged("event=reloaded")
            private = [f"{name}.test" for name in PRIVATE]
            world.send(*(f"eve@{domain}" for domain in private))
            for domain in private:
                daemon.logged(f"r=eve@{domain} status=failed dsn=5.4.6 .*relay.allow_private")
            assert not unwell(daemon)

        reached = {connection.local.removeprefix("::ffff:") for connection in server.connections}
    assert reached == {*PUBLIC.values(), *(a.removeprefix("::ffff:") for a in PRIVATE.values()), "127.0.0.1"}
    loopback = [connection for connection in server.connections if connection.local == "::ffff:127.0.0.1"]
    assert {m.recipients[0] for each in loopback for m in each.messages} == {"RCPT TO:<bob@routed.test>"}


def test_a_name_that_leads_to_loopback_by_the_next_attempt_is_not_followed(world: World) -> None:
    """D11: its time to live is nothing, and the first answer was harmless."""
    with serving(world.run, ScriptedServer({"RCPT": ["450 4.2.0 later"]}, host="::")) as server:
        world.port = server.port
        world.dns.ttl = 0
        lead(world.dns, "rebinds.test", PUBLIC["v4"])
        world.configure(relay={"allow_loopback": False}, retry={"first": "6s", "max": "6s"})
        with world.relaying() as daemon:
            world.send("bob@rebinds.test")
            daemon.logged("r=bob@rebinds.test status=deferred dsn=4.2.0")
            world.dns.a("mx.rebinds.test", "127.0.0.1")
            began = time.monotonic()
            daemon.logged("r=bob@rebinds.test status=failed dsn=5.4.6 .*loopback")
            assert (
                time.monotonic() - began > 3
            )  # the answer of the first attempt had to be forgotten (relayd/route/cache.py)

        assert {connection.local for connection in server.connections} == {f"::ffff:{PUBLIC['v4']}"}
