"""What is said of what was found, and how bad it is: with a daemon that runs, and without one."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from relayd.doctor.disk import MEBIBYTE, Room, of_room
from relayd.doctor.finding import Finding, Severity, counted
from relayd.doctor.overdue import UNKNOWN, why_it_waits
from relayd.doctor.resolver import of_resolver, of_validation
from relayd.doctor.running import Running, of_running
from relayd.doctor.tables import SITES, of_leases, of_sites, of_tables, of_what_is_late
from relayd.explanation import Standing, written
from relayd.mail.back_off import BackOff
from relayd.route.answers import Found, LookUp, NoData, NoName, Unavailable
from relayd.route.trust import Unfit, Unknown, Validates
from relayd.spool.examination import Examination
from relayd.spool.queue import Lease
from tests.spool.mail import HOUR, NOW

RUNS = Running(holder="17", owner="this")
STOPPED = Running()


def kinds(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.what, each.severity.value) for each in findings]


def test_of_many_the_first_are_named_and_very_many_are_not_counted() -> None:
    assert counted(["a"], "message waits", "messages wait", at_most=9) == "1 message waits: a"
    assert counted(list("abc"), "message waits", "messages wait", at_most=9) == "3 messages wait: a, b, c"
    assert counted(list("abcdefghi"), "x", "messages wait", at_most=9) == "9 or more messages wait: a, b, c, ..."


# the queue


def test_of_a_sound_queue_nothing_is_said() -> None:
    found = Examination()

    assert [*of_tables(found), *of_what_is_late(found, RUNS), *of_sites([], NOW), *of_leases([], RUNS)] == []


@pytest.mark.parametrize("name", [field.name for field in fields(Examination) if field.name != "overdue"])
def test_whatever_is_found_is_told_once(name: str) -> None:
    ids: dict[str, Any] = {name: ["m1", "m2"]}
    found = Examination(**ids)

    (told,) = [*of_tables(found), *of_what_is_late(found, RUNS)]

    assert told.severity is Severity.ERROR
    assert told.detail.endswith(": m1, m2")
    assert told.advice


def test_what_the_next_start_sees_to_is_no_error_without_a_daemon() -> None:
    found = Examination(leased_too_long=["m1"], expired=["m1"], owed=["m1"], not_unlinked=["m1"], miscounted=["m1"])

    assert {each.severity for each in of_what_is_late(found, STOPPED)} == {Severity.INFORMATION}
    assert {each.severity for each in of_tables(found)} == {Severity.ERROR}


def test_a_lease_of_another_start_than_the_one_that_runs_is_an_error() -> None:
    def lease(owner: str, recipients: int) -> Lease:
        return Lease(number=1, owner=owner, ends=NOW, recipients=recipients)

    (told,) = of_leases([lease("this", 5), lease("other", 3), lease("other", 0)], RUNS)

    assert (told.what, told.severity) == ("lease", Severity.ERROR)
    assert told.detail.startswith("3 recipients")
    assert list(of_leases([lease("this", 5), lease("other", 0)], RUNS)) == []
    assert list(of_leases([lease("other", 3)], STOPPED)) == []


def test_sites_that_are_out_of_reach_for_long_are_good_to_know() -> None:
    def known(site: str, hours: int) -> BackOff:
        since = NOW - hours * HOUR
        return BackOff(site=site, failures=9, retry_at=NOW + HOUR, since=since, reply="connection refused")

    told = list(of_sites([known("new", 1), known("b", 2), known("a", 3)], NOW))

    assert [each.detail.split()[0] for each in told] == ["a", "b"]
    assert told[0].detail.endswith("out of reach since 2026-11-22 09:00 UTC, 9 times in a row: connection refused")
    many = list(of_sites([known(f"s{number}", 2) for number in range(SITES + 5)], NOW))
    assert (len(many), many[-1].detail) == (SITES + 1, "5 more sites are out of reach for long")
    assert {each.severity for each in (*told, *many)} == {Severity.INFORMATION}


# mail that is due for long


def answer(*gates: Standing, relayers: int = 0, in_turn: bool = False) -> dict[str, Any]:
    return {"gates": [written(gate) for gate in gates], "relayers": relayers, "in_turn": in_turn}


OPEN = Standing(gate="window", open=True, why="0 of 5 connections in use")


@pytest.mark.parametrize(
    ("said", "why", "known"),
    [
        (None, "the daemon does not say why", False),
        (answer(OPEN), UNKNOWN, False),
        (answer(OPEN, relayers=1), "it is being sent, but there is much", True),
        (answer(OPEN, in_turn=True), "it waits for its turn", True),
        (
            answer(OPEN, Standing(gate="message-rate", open=False, until=NOW, why="at most 1 in 60 s")),
            "it waits for the message-rate until 2026-11-22 12:00:00 UTC, at most 1 in 60 s",
            True,
        ),
        (
            answer(Standing(gate="max-connections", open=False, why="1 of 1 connections in use"), OPEN, in_turn=True),
            "it waits for the max-connections, 1 of 1 connections in use",
            True,
        ),
    ],
)
def test_the_daemon_says_why_mail_waits_or_nobody_knows(said: dict[str, Any] | None, why: str, known: bool) -> None:
    assert why_it_waits(said) == (why, known)


# the daemon, the disk, the name servers


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (RUNS, []),
        (STOPPED, [("daemon", "warning")]),
        (Running(holder="17"), [("daemon", "error")]),
        (Running(holder="17", owner="this", degraded=("spool", "leases")), [("degraded", "error")] * 2),
    ],
)
def test_a_daemon_that_does_not_run_answer_or_work_is_told(state: Running, found: list[tuple[str, str]]) -> None:
    assert kinds(list(of_running(state))) == found


@pytest.mark.parametrize(
    ("octets", "inodes", "found"),
    [
        (2048, 100_000, []),
        (2048, None, []),
        (1000, 100_000, [("disk", "warning")]),
        (99, 100_000, [("disk", "error")]),
        (2048, 9_999, [("inodes", "warning")]),
        (0, 0, [("disk", "error"), ("inodes", "error")]),
    ],
)
def test_little_room_is_a_warning_and_none_an_error(
    octets: int, inodes: int | None, found: list[tuple[str, str]]
) -> None:
    room = Room(octets=octets * MEBIBYTE, inodes=inodes)

    assert kinds(list(of_room(Path("/spool"), room))) == found


@pytest.mark.parametrize(
    ("hostname", "answers", "found"),
    [
        ("relay.example", [Found(("192.0.2.1",)), NoData()], []),
        ("relay.example", [NoData(), Found(("2001:db8::1",))], []),
        ("relay.example", [NoName(), NoName()], [("hostname", "information")]),
        ("relay.example", [NoData(timedelta(0)), NoData()], [("hostname", "information")]),
        ("relay.example", [Unavailable("refused"), Found(("192.0.2.1",))], []),
        ("relay.example", [Unavailable("refused"), NoData()], []),
        ("relay.example", [Unavailable("refused"), Unavailable("refused")], [("resolver", "error")]),
        ("[192.0.2.1]", [NoData(), NoData()], []),
        ("[192.0.2.1]", [Unavailable("refused")], [("resolver", "error")]),
    ],
)
def test_name_servers_have_to_answer_and_should_know_us(
    hostname: str, answers: list[LookUp[str]], found: list[tuple[str, str]]
) -> None:
    assert kinds(list(of_resolver(tuple(answers), hostname))) == found


def test_that_dane_is_off_is_told_and_not_where_nobody_knows() -> None:
    (told,) = of_validation(Unfit("192.0.2.53 does not validate DNSSEC"))

    assert (told.what, told.severity) == ("dane", Severity.WARNING)
    assert "192.0.2.53 does not validate DNSSEC" in told.detail
    assert "tls.dane" in told.advice
    assert [*of_validation(Validates()), *of_validation(Unknown("no answer"))] == []
