"""How each gate stands, what blocks, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.explanation import (
    ORDER,
    Standing,
    blocking,
    in_order,
    of_back_off,
    of_daemon,
    of_hold,
    of_last_route,
    of_lease,
    of_policy,
    of_retry,
    of_route,
    of_site,
    of_unmet_policy,
    read,
    written,
)
from relayd.mail.address import Address
from relayd.mail.back_off import BackOff
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.recipient import Recipient, Status
from relayd.mail.route import Host, Site
from relayd.mail.tls import Sts, TlsPolicy
from relayd.schedule.gates import Room, SiteState
from relayd.schedule.rate import Meter, Rate
from relayd.schedule.settings import SiteLimits
from relayd.schedule.window import Window

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
ROOM = Room(running=3, max_connections=100, unreserved=75, in_core=30, active_limit=20_000)
SITE = Site(key="mx.example", hosts=((Host(name="mx1.example"), Host(name="mx2.example")), (Host(name="mx3.example"),)))


def a_recipient(
    number: int = 0, *, due: datetime | None = NOW, attempts: int = 0, reply: str = "", tried: bool = False
) -> Recipient:
    return Recipient(
        number=number,
        address=Address("ann", "one.example"),
        status=Status.DEFERRED if attempts else Status.QUEUED,
        attempts=attempts,
        due=due,
        reply=reply,
        peer="mx.example[192.0.2.1]:25" if attempts else "",
        attempted=NOW if tried or attempts else None,
    )


def a_back_off(*, site: str = "mx.example", until: datetime = NOW + HOUR) -> BackOff:
    return BackOff(site=site, failures=3, retry_at=until, since=NOW - HOUR, reply="connection refused")


def the(gate: str, gates: list[Standing]) -> Standing:
    (found,) = (each for each in gates if each.gate == gate)
    return found


# which one blocks


def test_the_first_gate_that_is_closed_blocks_in_whatever_order_they_are_known() -> None:
    gates = [Standing(gate=gate, open=gate not in ("back-off", "retry-time")) for gate in reversed(ORDER)]

    assert blocking(gates) == the("retry-time", gates)
    assert [gate.gate for gate in in_order(gates)] == list(ORDER)


def test_nothing_blocks_when_all_are_open() -> None:
    assert blocking(Standing(gate=gate, open=True) for gate in ORDER) is None


# the message


def test_a_held_message_waits_for_nobody_knows_how_long() -> None:
    assert of_hold(held=True, reason="").why == "held by an operator"
    assert of_hold(held=True, reason="the relay died 3 times with it in hand").why.startswith("the relay died")
    assert of_hold(held=True, reason="").until is None
    assert of_hold(held=False, reason="").open


@pytest.mark.parametrize(
    ("recipients", "until", "why"),
    [
        ([a_recipient()], None, "not tried yet"),
        ([a_recipient(due=None)], None, "not tried yet"),
        ([a_recipient(reply="refused")], None, "not tried yet; of its site: refused"),
        (
            [a_recipient(due=NOW + MINUTE, reply="refused", tried=True)],
            NOW + MINUTE,
            "tried while its site was out of reach; last refused",
        ),
        ([a_recipient(attempts=1, reply="450 no")], None, "1 attempt; last mx.example[192.0.2.1]:25: 450 no"),
        (
            [a_recipient(due=NOW + MINUTE, attempts=2, reply="450 4.2.0 greylisted")],
            NOW + MINUTE,
            "2 attempts; last mx.example[192.0.2.1]:25: 450 4.2.0 greylisted",
        ),
        (
            [a_recipient(due=NOW + HOUR, attempts=9), a_recipient(1, due=NOW + MINUTE, attempts=1)],
            NOW + MINUTE,
            "1 attempt",
        ),
    ],
)
def test_what_was_put_off_waits_for_its_time(recipients: list[Recipient], until: datetime | None, why: str) -> None:
    standing = of_retry(recipients, NOW)

    assert (standing.open, standing.until, standing.why) == (until is None, until, why)


@pytest.mark.parametrize(
    ("in_flight", "recipients", "is_open", "why"),
    [
        (0, 2, True, "not in flight"),
        (1, 2, True, "1 of 2 recipients in flight"),
        (2, 2, False, "in flight: since 12:00"),
    ],
)
def test_what_is_in_flight_is_not_started_again(in_flight: int, recipients: int, is_open: bool, why: str) -> None:
    assert of_lease(in_flight, recipients, "since 12:00") == Standing(gate="lease", open=is_open, why=why)


# the way


def test_a_route_names_the_hosts_in_their_order() -> None:
    assert of_route(SITE).why == "to mx1.example:25, mx2.example:25, mx3.example:25"


def test_a_destination_that_leads_nowhere_is_closed() -> None:
    trouble = of_route(Deferred(reason="no answer"), NOW + MINUTE)

    assert (trouble.open, trouble.until) == (False, NOW + MINUTE)
    assert trouble.why == "it cannot be looked up: no answer"
    assert of_route(Failed(reason="no such domain")).why == "its mail fails: no such domain"
    assert not of_route(None).open


def test_without_a_daemon_the_last_look_up_counts() -> None:
    assert of_last_route(None, None) == Standing(gate="route", open=True, why="not looked up yet")
    assert of_last_route("mx.example", a_back_off()).open
    closed = of_last_route("dns:one.example", a_back_off(site="dns:one.example"))
    assert (closed.open, closed.until, closed.why) == (False, NOW + HOUR, "it cannot be looked up: connection refused")


# the site


def test_a_site_of_which_nothing_is_known_is_open() -> None:
    gates = of_site(SiteState.of(SiteLimits()), ROOM, NOW)

    assert blocking(gates) is None
    assert {gate.gate: gate.why for gate in gates} == {
        "back-off": "within reach",
        "window": "0 of 5 connections in use",
        "connection-rate": "no limit",
        "message-rate": "no limit",
        "active-limit": "30 deliveries in core, of at most 20000",
        "max-connections": "3 of 100 connections in use",
    }


def test_a_site_that_backs_off_says_why_and_until_when() -> None:
    state = SiteState.of(SiteLimits())
    state.failures, state.retry_at, state.reason = 2, NOW + MINUTE, "no greeting"

    gate = the("back-off", of_site(state, ROOM, NOW))

    assert (gate.open, gate.until, gate.why) == (False, NOW + MINUTE, "out of reach 2 times in a row: no greeting")
    later = of_site(state, ROOM, NOW + MINUTE)
    assert the("back-off", later).why == "out of reach until now, so one connection is tried: no greeting"
    assert the("window", later).why == "0 of 1 connections in use"


def test_a_full_window_says_what_made_it_small() -> None:
    state = SiteState.of(SiteLimits())
    state.window = Window(size=2, why="421 too many connections")
    state.running = 2

    gate = the("window", of_site(state, ROOM, NOW))

    assert (gate.open, gate.why) == (False, "2 of 2 connections in use (421 too many connections)")
    state.running = 1
    assert the("window", of_site(state, ROOM, NOW)).why == "1 of 2 connections in use (421 too many connections)"


def test_a_rate_says_how_much_it_lets_through_now_and_when_again() -> None:
    rate = Rate.parse("20/1m")
    state = SiteState.of(SiteLimits(message_rate=rate, connection_rate=rate))
    state.messages = Meter().taken(rate, 2, NOW)

    gates = of_site(state, ROOM, NOW)

    assert the("message-rate", gates).until is not None
    assert the("message-rate", gates).why == "at most 20 in 60 s"
    assert the("connection-rate", gates).why == "at most 20 in 60 s; 2 at once now"


def test_what_all_sites_share_may_be_used_up() -> None:
    state = SiteState.of(SiteLimits())

    full = of_site(state, replace(ROOM, in_core=20_000, running=100), NOW)
    assert [gate.gate for gate in full if not gate.open] == ["active-limit", "max-connections"]
    assert the("max-connections", full).why == "100 of 100 connections in use"
    reserved = the("max-connections", of_site(state, replace(ROOM, running=75), NOW))
    assert reserved.why == "75 of 100 connections in use; the others are for quick sites without one"
    state.quick = True
    assert the("max-connections", of_site(state, replace(ROOM, running=75), NOW)).open


def test_the_queue_alone_tells_of_a_back_off_in_the_same_words() -> None:
    state = SiteState.of(SiteLimits())
    state.failures, state.retry_at, state.reason = 3, NOW + HOUR, "connection refused"

    assert of_back_off(a_back_off(), NOW) == the("back-off", of_site(state, ROOM, NOW))
    assert of_back_off(a_back_off(until=NOW), NOW).open
    assert of_back_off(None, NOW).why == "within reach"


# the daemon


def test_without_a_daemon_nothing_goes_out() -> None:
    assert of_daemon(answers=True, holder="17") == Standing(gate="daemon", open=True, why="it runs")
    assert of_daemon(answers=True, holder="17", degraded=["leases", "spool"]).why.endswith("its work: leases, spool")
    assert of_daemon(answers=False, holder=None) == Standing(gate="daemon", open=False, why="no daemon runs")
    assert of_daemon(answers=False, holder="17").why == "process 17 has the spool and does not answer"


# on its way to the command line


@given(
    st.builds(
        Standing,
        gate=st.sampled_from(ORDER),
        open=st.booleans(),
        until=st.none() | st.integers(0, 2**37).map(lambda seconds: datetime.fromtimestamp(seconds / 7, UTC)),
        why=st.text(),
    )
)
def test_what_is_written_is_read_to_the_millisecond(standing: Standing) -> None:
    until = standing.until and standing.until.replace(microsecond=standing.until.microsecond // 1000 * 1000)

    assert read(written(standing)) == replace(standing, until=until)


@pytest.mark.parametrize(
    "gate",
    [
        {},
        {"gate": "hold", "open": True},
        {"gate": "cattle", "open": True, "until": None, "why": ""},
        {"gate": "hold", "open": True, "until": "soon", "why": ""},
    ],
)
def test_what_is_no_gate_is_refused(gate: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        read(gate)


def test_a_peer_that_talks_much_is_cut_short() -> None:
    assert len(of_route(Failed(reason="x" * 100_000)).why) <= 1_000


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tls": TlsPolicy.NONE}, "no TLS"),
        ({}, "TLS where it can be had, what DANE says of a host"),
        ({"tls": TlsPolicy.VERIFY, "dane": False}, "TLS, and a certificate for the host's name"),
        (
            {"sts": Sts(enforce=True, hosts=frozenset())},
            "TLS where it can be had, what DANE says of a host, MTA-STS",
        ),
    ],
    ids=["none", "usual", "verify", "mta-sts"],
)
def test_what_is_demanded_of_tls_is_told(fields: dict[str, Any], words: str) -> None:
    gate = of_policy(Site(key="mx", hosts=((Host(name="mx"),),), **{"dane": True, **fields}))

    assert (gate.gate, gate.open, gate.why) == ("policy", True, words)


@pytest.mark.parametrize(("dsn", "later", "closed"), [("4.7.4", 60, True), ("4.4.1", 60, False), ("4.7.4", -60, False)])
def test_a_demand_that_was_not_met_closes_it_as_long_as_the_site_backs_off(dsn: str, later: int, closed: bool) -> None:
    until = NOW + timedelta(seconds=later)
    known = BackOff(site="mx", failures=1, retry_at=until, since=NOW, reply="no STARTTLS", dsn=dsn)

    gate = of_unmet_policy(known, NOW)

    assert (gate is not None) is closed
    assert gate is None or (gate.until, gate.why) == (until, "not met: no STARTTLS")
    assert of_unmet_policy(None, NOW) is None
