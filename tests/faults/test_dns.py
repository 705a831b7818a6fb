"""FAULTS.md, "Hostile DNS": what an answer, or none, does to mail (D1 to D9, D13, D14).

One start of the daemon for all domains: each has a zone of its own, and the others must not be the worse for it.
"""

from __future__ import annotations

import time

from tests.faults import zones
from tests.faults.kit import bounces, outcome, unwell
from tests.faults.zones import Zone, exchanged, troubled, with_trick
from tests.support.process import wait_until
from tests.support.world import World

DOMAINS: dict[str, tuple[Zone, str]] = {
    "d1-nxdomain": (lambda dns, name, address: None, "failed 5.1.2"),
    "d2-implicit": (zones.implicit, "delivered 2.0.0"),
    "d3-nodata": (zones.nodata, "failed 5.4.4"),
    "d4-servfail": (troubled(lambda dns, name: dns.servfail(name, "MX")), "deferred 4.4.3"),
    "d4-refused": (troubled(lambda dns, name: dns.rcode(name, "REFUSED")), "deferred 4.4.3"),
    "d4-formerr": (troubled(lambda dns, name: dns.rcode(name, "FORMERR")), "deferred 4.4.3"),
    "d4-notimp": (troubled(lambda dns, name: dns.rcode(name, "NOTIMP")), "deferred 4.4.3"),
    "d4-silent": (troubled(lambda dns, name: dns.silent(name, "MX")), "deferred 4.4.3"),
    "d4-lame": (troubled(lambda dns, name: dns.lame(name)), "deferred 4.4.3"),
    "d4-mangled": (troubled(lambda dns, name: dns.mangle(name)), "deferred 4.4.3"),
    "d5-hosts-servfail": (zones.hosts_trouble, "deferred 4.4.3"),
    "d5-hosts-nxdomain": (zones.hosts_missing, "deferred 4.4.4"),
    "d5-one-host-left": (zones.one_host_left, "delivered 2.0.0"),
    "d6-null": (zones.null_mx, "failed 5.1.10"),
    "d6-null-and-another": (zones.null_mx_beside_another, "delivered 2.0.0"),
    "d7-host-alias": (zones.host_is_an_alias, "delivered 2.0.0"),
    "d7-domain-alias": (zones.domain_is_an_alias, "delivered 2.0.0"),
    "d8-loop": (zones.loop, "deferred 4.4.3"),
    "d8-host-in-a-loop": (zones.host_in_a_loop, "deferred 4.4.3"),
    "d8-chain-of-20": (zones.chain_of_twenty, "deferred 4.4.3"),
    "d8-chain-of-10": (zones.chain_of_ten, "delivered 2.0.0"),
    "d9-address": (zones.address_as_a_host, "deferred 4.4.4"),
    "d13-slow": (with_trick(lambda dns, name: dns.delay(name, 30)), "deferred 4.4.3"),
    "d13-late": (with_trick(lambda dns, name: dns.delay(name, 0.3)), "delivered 2.0.0"),
    "d13-lost": (with_trick(lambda dns, name: dns.lose(name, 1)), "delivered 2.0.0"),
    "d13-forged": (with_trick(lambda dns, name: dns.forge(name, "127.0.0.66")), "delivered 2.0.0"),
    "d13-thrice": (with_trick(lambda dns, name: dns.repeat(name)), "delivered 2.0.0"),
    "d13-other-case": (with_trick(lambda dns, name: dns.shout(name)), "delivered 2.0.0"),
    "d14-under_score": (exchanged, "delivered 2.0.0"),
}
# D14: domains that need a look of their own, as they are written in the log.
ODD = {
    "localhost": "failed 5.1.2",
    "xn--zzz.test": "failed 5.1.2",
    "xn--bcher-kva.test": "delivered 2.0.0",
    "tld": "delivered 2.0.0",
    "[127.0.1.2]": "delivered 2.0.0",
    "[IPv6:::ffff:7f00:102]": "delivered 2.0.0",
    "a." * 100 + "test": "failed 5.1.2",
}
WRITTEN = {
    "xn--bcher-kva.test": "B\u00fccher.test",
    "tld": "TLD.",
    "[IPv6:::ffff:7f00:102]": "[ipv6:::FFFF:127.0.1.2]",
}  # in the dropped file, where it is not so


def test_each_answer_of_a_name_server_has_its_outcome_and_none_touches_another_domain(world: World) -> None:
    """D1, D2, D3, D4, D5, D6, D7, D8, D9, D13, D14."""
    mx, home = world.exchanger("mx.well.test"), world.exchanger("mx.sender.test")
    world.domain("well.test", mx)
    world.domain("sender.test", home)
    for name, (zone, _) in DOMAINS.items():
        zone(world.dns, f"{name}.test", mx.address)
    for name in ("xn--bcher-kva.test", "tld"):
        exchanged(world.dns, name, mx.address)
    expected = {f"{name}.test": told for name, (_, told) in DOMAINS.items()} | ODD
    failed = {domain: told for domain, told in expected.items() if told.startswith("failed")}
    well = [f"bob{number}@well.test" for number in range(20)]
    world.configure(dns={"timeout": "4s"}, retry={"first": "1h", "max": "1h"})
    with world.relaying() as daemon:
        began = time.monotonic()
        for address in (*(f"bob@{WRITTEN.get(domain, domain)}" for domain in expected), *well):
            world.send(address)
        wait_until(lambda: set(well) <= {each.rcpt_tos[0] for each in mx.taken}, "the others", timeout=10)
        wait_until(lambda: all(outcome(daemon, domain) for domain in expected), "every outcome")
        wait_until(lambda: len(home.taken) >= len(failed), "the bounces")
        assert time.monotonic() - began < 40
        assert not unwell(daemon)

    assert {domain: outcome(daemon, domain) for domain in expected} == expected
    assert len(mx.taken) == 20 + sum(told.startswith("delivered") for told in expected.values())
    assert bounces(home) == failed
