"""Each plan at real servers, in clear text and encrypted: a batch over one connection, compared byte by byte."""

from __future__ import annotations

import re

import pytest

from tests.support.mta import Exim, Postfix
from tests.support.process import wait_until
from tests.support.world import World
from tests.wire.test_bytes import ADDED, BODIES, HEADER, canonical

ROUNDS = 4  # each body so many times


@pytest.mark.parametrize("kind", [Postfix, Exim], ids=["Postfix", "Exim"])
@pytest.mark.parametrize("chunking", [True, False], ids=["chunked", "pipelined"])
@pytest.mark.parametrize("tls", ["none", "require"])
def test_a_batch_over_one_connection_arrives_as_it_was_dropped(
    world: World, kind: type[Postfix] | type[Exim], chunking: bool, tls: str
) -> None:
    dropped = {b"%s-%d" % (name.encode(), n): body for name, body in BODIES.items() for n in range(ROUNDS)}
    with kind(chunking=chunking) as receiver:
        world.configure(
            route=[{"name": "mta", "match": ["*"], "hosts": [f"127.0.0.1:{receiver.port}"], "tls": tls}],
            relay={"max_connections_per_site": 1, "check_interval": "1h"},
        )
        for name, body in dropped.items():
            world.drop(HEADER % name + body)
        with world.relaying() as daemon:
            wait_until(lambda: daemon.log.count("status=delivered") == len(dropped), "all deliveries", timeout=60)
            assert ("tls=" in daemon.log) == (tls == "require")
            assert "dup=" not in daemon.log
        arrived = receiver.wait_for(len(dropped), timeout=60)
        if chunking:
            wait_until(lambda: receiver.came_by_bdat >= len(dropped), "the server's log of BDAT")
        else:
            assert receiver.came_by_bdat == 0

    assert len(arrived) == len(dropped)
    for message in arrived:
        added = ADDED.match(message.raw)
        subject = re.search(rb"^Subject: (\S+)", message.raw, re.MULTILINE)
        assert added
        assert subject
        assert message.raw[added.end() :] == canonical(HEADER % subject[1] + dropped[subject[1]]), subject[1]
