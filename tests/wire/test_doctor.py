"""`relayd doctor` on the spool of a real daemon: nothing on one that is well, and each trouble by its name."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relayd.mail.message import new_id
from tests.support.process import wait_until
from tests.support.world import Exchanger, World, a_message
from tests.wire.test_daemon import Gate

KEYS = {"what", "severity", "detail", "advice"}
HOUR = timedelta(hours=1)


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    world.exchanger("relay.test")  # so that our own name has an address
    return exchanger


@pytest.fixture
def gate(mx: Exchanger) -> Iterator[Gate]:
    gate = Gate(mx)
    yield gate
    gate.opened.set()


def doctor(world: World) -> tuple[int, list[dict[str, str]]]:
    said = world.command("doctor", "--json")
    findings: list[dict[str, str]] = json.loads(said.stdout)
    for finding in findings:
        assert set(finding) == KEYS
        assert all(finding.values())
    return said.returncode, findings


def kinds(findings: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(finding["what"], finding["severity"]) for finding in findings]


def in_queue(world: World, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(world.spool / "queue.db", isolation_level=None, timeout=10)) as connection:
        connection.execute(statement, parameters)


def ago(span: timedelta) -> int:
    return round((datetime.now(UTC) - span).timestamp() * 1_000_000)


def a_waiting_message(world: World, mx: Exchanger) -> str:
    """Have a message put off for long; the daemon is stopped."""
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    world.send("bob@example.test")
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75
    return str(world.queue()[0]["id"])


def test_of_a_daemon_that_works_nothing_is_wrong(world: World, mx: Exchanger, gate: Gate) -> None:
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now" if "late" in address else "250 2.1.5 ok"
    with world.relaying() as daemon:
        world.send("late@example.test")
        daemon.logged("r=late@example.test status=deferred")
        world.send("bob@example.test")
        wait_until(gate.reached.is_set, "the end of a message")

        assert doctor(world) == (0, [])
        assert world.command("doctor").stdout == "nothing is wrong\n"
        gate.opened.set()


def test_that_no_daemon_runs_is_a_warning(world: World, mx: Exchanger) -> None:
    with world.relaying():
        pass

    code, found = doctor(world)

    assert (code, kinds(found)) == (1, [("daemon", "warning")])
    assert world.command("doctor").stdout.splitlines() == [
        "warning: daemon: no daemon runs, so no mail goes out; start it: systemctl start relayd",
        "0 errors, 1 warning",
    ]


def test_a_daemon_that_hangs_is_an_error(world: World, mx: Exchanger) -> None:
    with world.relaying() as daemon:
        daemon.signal(signal.SIGSTOP)
        try:
            code, found = doctor(world)
        finally:
            daemon.signal(signal.SIGCONT)

    assert (code, kinds(found)) == (1, [("daemon", "error")])
    assert str(daemon.pid) in found[0]["detail"]


def test_every_mistake_of_the_configuration_is_an_error(world: World) -> None:
    world.config_path.write_text('[relay]\nport = 0\nx = 1\n[retry]\nfirst = "x"\n')

    code, found = doctor(world)

    assert (code, kinds(found)) == (1, [("configuration", "error")] * 3)
    assert any("relay.port" in finding["detail"] for finding in found)


def test_a_spool_that_is_not_there_is_an_error(world: World, mx: Exchanger) -> None:
    world.configure()

    assert kinds(doctor(world)[1]) == [("spool", "error")]


def test_a_damaged_queue_is_an_error_and_names_the_remedy(world: World, mx: Exchanger) -> None:
    a_waiting_message(world, mx)
    with (world.spool / "queue.db").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xa5" * 4096 * 2)

    code, found = doctor(world)

    assert (code, kinds(found)) == (1, [("daemon", "warning"), ("queue", "error")])
    assert "is damaged" in found[1]["detail"]
    assert "relayd recover" in found[1]["advice"]


def test_a_lost_queue_is_an_error(world: World, mx: Exchanger) -> None:
    a_waiting_message(world, mx)
    (world.spool / "queue.db").unlink()

    found = doctor(world)[1]

    assert kinds(found)[1:] == [("queue", "error")]
    assert "relayd recover" in found[1]["advice"]


def test_a_queue_of_a_newer_relayd_is_told(world: World, mx: Exchanger) -> None:
    a_waiting_message(world, mx)
    in_queue(world, "PRAGMA user_version = 99")

    found = doctor(world)[1]

    assert kinds(found)[1:] == [("system", "error")]
    assert "version 99" in found[1]["detail"]


def test_what_is_past_its_lifetime_is_the_next_starts_business_and_an_error_while_one_runs(
    world: World, mx: Exchanger
) -> None:
    message = a_waiting_message(world, mx)
    in_queue(world, "UPDATE messages SET arrived = ?", ago(timedelta(days=6)))

    stopped = doctor(world)[1]
    world.configure(relay={"check_interval": "1h"}, retry={"first": "1h", "max": "1h"})
    with world.relaying():  # its first sweep comes after an hour
        code, running = doctor(world)

    assert kinds(stopped) == [("daemon", "warning"), ("expired", "information")]
    assert (code, kinds(running)) == (1, [("expired", "error")])
    assert message in running[0]["detail"]


def test_mail_that_is_due_for_long_is_explained(world: World, mx: Exchanger, gate: Gate) -> None:
    a_waiting_message(world, mx)
    mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
    in_queue(world, "UPDATE recipients SET due = ?", ago(HOUR))
    world.configure(relay={"max_connections_per_site": 1, "max_messages_per_connection": 1})
    with world.relaying():
        wait_until(gate.reached.is_set, "the end of the message")
        world.send("eve@example.test")
        wait_until(lambda: len(world.queue()) == 2, "the second message")
        in_queue(world, "UPDATE recipients SET due = ?", ago(HOUR))

        code, found = doctor(world)
        gate.opened.set()

    assert (code, kinds(found)) == (0, [("overdue", "information")])
    assert "1 recipients at example.test are due since" in found[0]["detail"]
    assert "waits for the window, 1 of 1 connections in use" in found[0]["detail"]


def test_mail_that_is_due_for_long_for_no_reason_that_the_daemon_knows_is_an_error(world: World, mx: Exchanger) -> None:
    a_waiting_message(world, mx)
    mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
    world.configure(relay={"check_interval": "1h"}, retry={"first": "1h", "max": "1h"})
    with world.relaying() as daemon:
        for name in ("eve", "cy"):  # then it has looked for due mail, and does so again after an hour
            world.send(f"{name}@example.test")
            daemon.logged(f"r={name}@example.test status=delivered")
        in_queue(world, "UPDATE recipients SET due = ?", ago(HOUR))

        code, found = doctor(world)

    assert (code, kinds(found)) == (1, [("overdue", "error")])
    assert "nothing that is known keeps it waiting" in found[0]["detail"]


def test_mail_of_a_site_that_backs_off_is_not_overdue(world: World, mx: Exchanger) -> None:
    a_waiting_message(world, mx)
    world.configure(relay={"check_interval": "1h"}, retry={"first": "1h", "max": "1h"})
    with world.relaying():
        in_queue(world, "UPDATE recipients SET due = ?", ago(HOUR))
        in_queue(
            world,
            "INSERT INTO sites (key, failures, retry_at, since, reply) SELECT site, 5, ?, ?, 'refused'"
            " FROM destinations",
            ago(-HOUR),
            ago(2 * HOUR),
        )

        code, found = doctor(world)

    assert (code, kinds(found)) == (0, [("site", "information")])


def test_what_is_wrong_on_the_disk_is_told(world: World, mx: Exchanger) -> None:
    message = a_waiting_message(world, mx)
    (world.spool / "queue" / message[-2:] / message).unlink()
    old = new_id(datetime.now(UTC) - HOUR)
    (world.spool / "queue" / old[-2:]).mkdir(mode=0o700, exist_ok=True)
    (world.spool / "queue" / old[-2:] / old).write_bytes(a_message("eve@example.test"))
    (world.spool / "queue").chmod(0o755)

    found = doctor(world)[1]

    assert kinds(found) == [
        ("daemon", "warning"),
        ("mode", "warning"),
        ("body", "error"),
        ("orphan", "information"),
    ]
    assert message in found[2]["detail"]


def test_name_servers_that_do_not_answer_are_an_error_within_seconds(world: World, mx: Exchanger) -> None:
    world.configure(dns={"nameservers": ["127.0.0.1:1"], "timeout": "60s"})
    with world.relaying():
        began = datetime.now(UTC)
        code, found = doctor(world)

    assert (code, kinds(found)) == (1, [("resolver", "error")])
    assert datetime.now(UTC) - began < timedelta(seconds=30)


def test_a_name_without_an_address_is_good_to_know(world: World) -> None:
    with world.relaying():
        code, found = doctor(world)

    assert (code, kinds(found)) == (0, [("hostname", "information")])


def test_it_changes_nothing(world: World, mx: Exchanger) -> None:
    message = a_waiting_message(world, mx)
    in_queue(world, "INSERT INTO leases (id, owner, ends) VALUES (77, 'gone', 5)")
    in_queue(world, "UPDATE recipients SET lease = 77")

    before = _snapshot(world.spool)
    assert ("lease", "information") in kinds(doctor(world)[1])

    assert _snapshot(world.spool) == before
    assert world.queue()[0]["in_flight"]
    assert world.queue()[0]["id"] == message


def _snapshot(spool: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(spool)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in spool.rglob("*")
    }


def test_of_a_daemon_that_has_much_to_do_nothing_is_wrong(world: World, mx: Exchanger) -> None:
    answers = ["250 2.1.5 ok", "450 4.2.1 not now", "550 5.1.1 nobody", "250 2.1.5 ok"]
    mx.on_rcpt = lambda envelope, address: answers[len(address) % 4]
    world.domain("dead.test", world.exchanger("mx.dead.test", alive=False))
    with world.relaying() as daemon:
        for number in range(1, 301):
            world.send(f"{'x' * number}@example.test"[-60:], f"a{number}@dead.test", sender="ann@example.test")
        daemon.logged("event=site-backs-off")
        for _ in range(3):
            code, found = doctor(world)
            assert (code, found) == (0, [])


def test_that_dane_is_off_for_want_of_dnssec_is_told_where_it_is_wanted(world: World, mx: Exchanger) -> None:
    world.dns.stops_validating()
    world.configure()
    assert ("dane", "warning") in kinds(doctor(world)[1])

    world.configure(tls={"dane": False})
    assert ("dane", "warning") not in kinds(doctor(world)[1])
