"""relayd.observe.observer and counters: each event is a line and a figure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import get_args

import pytest

from relayd.mail.address import Address
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.envelope import Envelope
from relayd.mail.events import (
    Accepted,
    Attempted,
    ClockLeapt,
    Committed,
    Degraded,
    Event,
    FileLeft,
    FileRejected,
    HeldAfterDeaths,
    Lifecycle,
    Marked,
    NotificationDropped,
    Notified,
    Repeated,
    Restored,
    SiteBackedOff,
    SiteRecovered,
    TlsReported,
    Trouble,
    Warned,
    WorkerDied,
)
from relayd.mail.key import SubmissionKey
from relayd.mail.message import Body, Message
from relayd.mail.recipient import Recipient, Status
from relayd.mail.settlement import Action
from relayd.mail.tls import Evidence, Proof
from relayd.observe.counters import Counted, Counters
from relayd.observe.log import Style, make_log
from relayd.observe.observer import Observer
from relayd.observe.parts import Parts
from relayd.observe.settings import LogStyle

NOW = datetime(2026, 11, 22, 7, 20, tzinfo=UTC)
ANN = Recipient(
    number=0,
    address=Address.parse("ann@example.org"),
    status=Status.DEFERRED,
    attempts=2,
    due=NOW + timedelta(seconds=540),
    reply="450 4.2.0 greylisted",
    dsn="4.2.0",
    peer="mx1.example.org[192.0.2.1]:25",
    attempted=NOW,
)
ATTEMPTED = Attempted(
    id="01J8ZK",
    recipient=ANN,
    tls=Evidence(version="1.3", cipher="TLS_AES_256_GCM_SHA384", proof=Proof.PKIX),
    seconds=0.25,
    age=61.0,
)
MESSAGE = Message(
    id="01J8ZK",
    envelope=Envelope(reverse_path=None, recipients=(ANN,)),
    body=Body(size=1234, wire_size=1234, header_end=100),
    arrived=NOW,
)
DEADLINE = Deadline(at=datetime(2026, 11, 24, 21, tzinfo=UTC), mode=DeadlineMode.OWN)
REPORTED = TlsReported(
    domain="example.net", day=date(2026, 11, 26), to="mailto:tls@example.net", sessions=12, failed=3, id="01J8ZK"
)
# One of each kind: the line it makes, and the figures that grow.
TOLD: list[tuple[Event, str, dict[Counted, int]]] = [
    (
        ATTEMPTED,
        "<6>q=01J8ZK r=ann@example.org status=deferred dsn=4.2.0 n=2 host=mx1.example.org addr=[192.0.2.1]:25 "
        'tls=1.3/verified cipher=TLS_AES_256_GCM_SHA384 took=0.250s age=61.000s next=540s reply="450 4.2.0 greylisted"',
        {Counted.ATTEMPTS: 1, Counted.DEFERRED: 1},
    ),
    (
        replace(ATTEMPTED, altered="re-encoded"),
        "<6>q=01J8ZK r=ann@example.org status=deferred dsn=4.2.0 n=2 host=mx1.example.org addr=[192.0.2.1]:25 "
        "tls=1.3/verified cipher=TLS_AES_256_GCM_SHA384 took=0.250s age=61.000s "
        'altered=re-encoded next=540s reply="450 4.2.0 greylisted"',
        {Counted.ATTEMPTS: 1, Counted.DEFERRED: 1},
    ),
    (
        Accepted(message=MESSAGE, file="a b.eml"),
        '<6>event=accepted q=01J8ZK sender=<> recipients=1 size=1234 file="a b.eml"',
        {Counted.ACCEPTED: 1, Counted.ACCEPTED_OCTETS: 1234},
    ),
    (
        Accepted(message=replace(MESSAGE, envelope=replace(MESSAGE.envelope, deadline=DEADLINE))),
        "<6>event=accepted q=01J8ZK sender=<> recipients=1 size=1234 deadline=2026-11-24T21:00:00+00:00",
        {Counted.ACCEPTED: 1, Counted.ACCEPTED_OCTETS: 1234},
    ),
    (
        Repeated(id="01", key=SubmissionKey(33, "order 7"), file="x"),
        '<6>event=repeated q=01 key="order 7" uid=33 file=x',
        {Counted.REPEATED: 1},
    ),
    (
        FileRejected(file="x", reason="no recipients"),
        '<4>event=rejected file=x reason="no recipients"',
        {Counted.REJECTED: 1},
    ),
    (FileLeft(file="x\n", reason="a link"), '<4>event=left file="x\\n" reason="a link"', {Counted.LEFT: 1}),
    (
        Notified(id="02", action=Action.FAILED, message_id="01", recipients=2),
        "<6>event=notified q=01 action=failed recipients=2 by=02",
        {Counted.BOUNCES: 1},
    ),
    (NotificationDropped(message_id="01", reason="<>"), "<4>event=not-notified q=01 reason=<>", {Counted.UNTOLD: 1}),
    (
        SiteBackedOff(site="mx1:25", failures=2, retry_at=NOW, reason="connection refused"),
        '<4>event=site-backs-off site=mx1:25 failures=2 until=2026-11-22T07:20:00+00:00 reason="connection refused"',
        {Counted.BACK_OFFS: 1},
    ),
    (SiteRecovered(site="mx1:25"), "<6>event=site-recovered site=mx1:25", {Counted.RECOVERIES: 1}),
    (Marked(id="01", address="a@b.example"), "<4>event=possible-duplicate q=01 r=a@b.example", {Counted.MARKED: 1}),
    (HeldAfterDeaths(id="01", deaths=3), "<3>event=held q=01 deaths=3", {Counted.HELD: 1}),
    (
        WorkerDied(pid=7, how="killed by SIGKILL", relayers=3),
        '<3>event=worker-died pid=7 how="killed by SIGKILL" relayers=3',
        {Counted.WORKER_DEATHS: 1},
    ),
    (
        Degraded(part="queue", reason="disk full"),
        '<3>event=degraded part=queue reason="disk full"',
        {Counted.DEGRADED: 1},
    ),
    (Committed(jobs=3, seconds=0.01), "", {}),
    (Restored(part="queue"), "<6>event=restored part=queue", {}),
    (ClockLeapt(set_by=timedelta(hours=-1), lost=timedelta(0)), "<4>event=clock-set by=-3600s", {}),
    (ClockLeapt(set_by=timedelta(0), lost=timedelta(days=1)), "<6>event=time-lost lost=86400s", {}),
    (
        Warned(about="relay.hostname", detail="no full name"),
        '<4>event=warning about=relay.hostname detail="no full name"',
        {},
    ),
    (
        REPORTED,
        "<6>event=tls-reported q=01J8ZK domain=example.net day=2026-11-26 to=mailto:tls@example.net "
        "sessions=12 failed=3",
        {},
    ),
    (
        replace(REPORTED, id="", to="https://example.net/", trouble="the answer was 503"),
        "<4>event=tls-report-given-up domain=example.net day=2026-11-26 to=https://example.net/ sessions=12 failed=3 "
        'reason="the answer was 503"',
        {},
    ),
    (Lifecycle(state="started", detail="version 1"), '<6>event=started detail="version 1"', {}),
    (
        Trouble(part="queue", detail="ValueError()"),
        "<3>event=trouble part=queue detail=ValueError()",
        {Counted.TROUBLE: 1},
    ),
]


class Lines(list[str]):
    """Keeps what is written."""

    write = list.append


def observed(event: Event) -> tuple[list[str], dict[str, int]]:
    lines, counters = Lines(), Counters()
    Observer(make_log(lines, Style(LogStyle.LOGFMT, journal=True)), counters, Parts())(event)
    return list(lines), {name: figure for name, figure in counters.snapshot().items() if figure}


@pytest.mark.parametrize(("event", "line", "figures"), TOLD, ids=lambda value: type(value).__name__)
def test_an_event_is_one_line_and_its_figures(event: Event, line: str, figures: dict[Counted, int]) -> None:
    lines, grown = observed(event)

    assert lines == ([line] if line else [])
    assert grown == {counted.label: figure for counted, figure in figures.items()}


def test_every_kind_of_event_is_in_this_table() -> None:
    assert {type(event) for event, _, _ in TOLD} == set(get_args(Event))


@pytest.mark.parametrize(
    ("status", "level", "counted"),
    [
        (Status.DELIVERED, "<6>", Counted.DELIVERED),
        (Status.FAILED, "<4>", Counted.FAILED),
        (Status.REMOVED, "<6>", Counted.REMOVED),
    ],
)
def test_a_final_outcome_has_no_next_attempt(status: Status, level: str, counted: Counted) -> None:
    (line,), grown = observed(replace(ATTEMPTED, recipient=replace(ANN, status=status)))

    assert line.startswith(f"{level}q=01J8ZK r=ann@example.org status={status.value} ")
    assert " next=" not in line
    assert grown == {Counted.ATTEMPTS.label: 1, counted.label: 1}


def test_without_a_connection_there_is_no_host() -> None:
    (line,), _ = observed(replace(ATTEMPTED, tls=None, recipient=replace(ANN, peer="", possible_duplicate=True)))

    assert " host=" not in line
    assert " addr=" not in line
    assert " tls=" not in line
    assert " dup=possible " in line


def test_a_hostile_reply_is_one_line() -> None:
    hostile = replace(ANN, reply='550 x" status=delivered\r\nq=02 \x1b[31m')

    (line,), _ = observed(replace(ATTEMPTED, recipient=hostile))

    assert line.endswith('reply="550 x\\" status=delivered\\r\\nq=02 \\x1b[31m"')


def test_names_of_figures_are_unique_and_each_has_a_help_text() -> None:
    names = [counted.label for counted in Counted]

    assert len(set(names)) == len(names)
    assert all(counted.help_text.endswith(".") for counted in Counted)
    assert list(Counters().snapshot()) == names
    assert Counters()[Counted.ACCEPTED] == 0
