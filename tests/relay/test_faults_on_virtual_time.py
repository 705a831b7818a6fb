"""The ten-minute rows, with the timeouts as they are by default, on a clock that jumps (RFC.md R40, FAULTS.md H3 to H6,
H18): what is waited for, how long, and what becomes of the message."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from relayd.mail.figures import Figures
from relayd.mail.outcome import Deferred, Delivered, Outcome
from relayd.mail.reply import Reply
from relayd.relay.capabilities import Capabilities
from relayd.relay.engines import engine_for
from relayd.relay.exchange import Exchange
from relayd.relay.plans import Plan
from relayd.relay.reporter import Reporter
from relayd.relay.secrecy import Secrecy
from relayd.relay.stirring import Stirring
from relayd.relay.stock import Stock
from relayd.relay.timeouts import Timeouts
from tests.relay.faults import EHLO, LARGE, a_bench, data_plans, deferred, each_plan
from tests.relay.kit import ANN, BOB, HELLO, a_delivery
from tests.support.smtp import DEFAULTS, STALL, Answer, Plain, Script, ScriptedServer
from tests.support.smuggling import canonical
from tests.support.virtual import MemoryTransport, connected, on_virtual_time

TIMEOUTS = Timeouts()


@dataclass(frozen=True)
class Played:
    """What came of one message to one server: `seconds` until the exchange was over."""

    outcomes: dict[str, Outcome]
    over: Deferred | None
    seconds: float
    server: ScriptedServer
    sent: bytes
    noted: list[str]

    @property
    def outcome(self) -> Outcome:
        (found,) = set(self.outcomes.values())
        return found


def play(
    plan: Plan,
    replies: Mapping[str, Script],
    *,
    to: list[str] | None = None,
    file: bytes = HELLO,
    stuck_after: str = "",
    reading: float = 0.0,
    max_recipients: int = 100,
) -> Played:
    """Send one message by `plan`, with the default timeouts; `stuck_after` is the last stage at which the server's
    host takes anything; a piece of the file is read in `reading` seconds; a transaction has `max_recipients`."""
    return on_virtual_time(_play(plan, replies, to or [ANN], file, stuck_after, reading, max_recipients))


async def _play(
    plan: Plan,
    replies: Mapping[str, Script],
    to: list[str],
    file: bytes,
    stuck_after: str,
    reading: float,
    max_recipients: int,
) -> Played:
    bench = a_bench(timeouts=TIMEOUTS, settings={"max_recipients": max_recipients})
    bench.files.files["M1"] = file
    bench.files.before_chunk = lambda offset: asyncio.sleep(reading)
    ports = bench.equipment.ports
    offered = Capabilities.parse(Reply(250, EHLO[plan].replace("250-", "").replace("250 ", "")))
    engine = engine_for(plan, offered, bench.settings, bench.now)
    stock = Stock([a_delivery(to, file)], bench.files, bench.settings, bench.recaster)
    reporter = Reporter(bench.reports, lambda: bench.now, 32, Secrecy(None))
    clock = asyncio.get_running_loop().time
    stuck: dict[str, Script] = {stuck_after: lambda line: _closing(ours, stuck_after)} if stuck_after else {}
    server = ScriptedServer({"greeting": "", **replies, **stuck})
    async with connected(server, TIMEOUTS) as (wire, ours):
        await asyncio.sleep(0)
        began = clock()
        await Exchange(wire, engine, stock, reporter, ports, bench.settings, Stirring(clock), Figures(), []).run()
        seconds = clock() - began
        await asyncio.sleep(3600)  # whatever can still leave, leaves
        if bench.reports.attempts:
            outcomes = bench.reports.outcomes()
        else:  # to be tried at the next host
            assert engine.over is not None
            outcomes = dict.fromkeys(to, engine.over)
        return Played(outcomes, engine.over, seconds, server, bytes(ours.taken), bench.endings.noted)


def _closing(transport: MemoryTransport, stage: str) -> Plain:
    transport.window = False
    return "" if stage == "greeting" else DEFAULTS[stage]


@each_plan
@pytest.mark.parametrize(("stage", "minutes"), [("MAIL", 5), ("RCPT", 5)])
def test_an_envelope_that_is_not_answered_is_given_its_five_minutes(plan: Plan, stage: str, minutes: int) -> None:
    """R40's table: RFC 5321 section 4.5.3.2.2 and 3."""
    played = play(plan, {stage: STALL}, file=LARGE)

    assert played.seconds == pytest.approx(minutes * 60)
    assert f"no reply in 300 s after {stage}" in str(played.over)
    assert not deferred(played.outcome).possible_duplicate
    assert played.noted == []


@each_plan
@pytest.mark.parametrize("late", [False, True])
def test_every_recipient_has_five_minutes_of_its_own(plan: Plan, late: bool) -> None:
    """H18: the time begins anew with each answer, not with what was sent."""
    answers = [Answer("250 ok", delay=299), Answer("250 ok", delay=301 if late else 299)]
    played = play(plan, {"RCPT": answers}, to=[ANN, BOB], file=LARGE)

    assert isinstance(played.outcome, Deferred if late else Delivered)
    assert played.seconds == pytest.approx(299 + (300 if late else 299))


@each_plan
def test_a_hundred_recipients_at_almost_five_minutes_each_are_waited_for(plan: Plan) -> None:
    """H18."""
    names = [f"r{n}@example.org" for n in range(100)]
    played = play(plan, {"RCPT": Answer("250 ok", delay=290)}, to=names)

    assert len(played.outcomes) == 100
    assert isinstance(played.outcome, Delivered)
    assert played.seconds == pytest.approx(29_000)
    assert len(played.server.taken) == 1


@data_plans
def test_data_that_is_not_answered_is_given_two_minutes(plan: Plan) -> None:
    """R40's table: RFC 5321 section 4.5.3.2.4."""
    played = play(plan, {"DATA": STALL})

    assert played.seconds == pytest.approx(120)
    assert "no reply in 120 s after DATA" in str(played.over)
    assert not deferred(played.outcome).possible_duplicate
    assert HELLO not in played.sent


@data_plans
def test_the_354_may_take_its_two_minutes(plan: Plan) -> None:
    """R40's table: RFC 5321 section 4.5.3.2.4."""
    assert isinstance(play(plan, {"DATA": Answer("354 go", delay=119)}).outcome, Delivered)


@each_plan
@pytest.mark.parametrize("file", [HELLO, LARGE], ids=["small", "large"])
def test_the_end_of_a_message_that_is_not_answered_is_given_ten_minutes(plan: Plan, file: bytes) -> None:
    """H6: RFC 5321 section 4.5.3.2.6."""
    played = play(plan, {"final": STALL}, file=file)

    assert played.seconds == pytest.approx(600)
    assert deferred(played.outcome).possible_duplicate
    assert len(played.server.messages) == 1


@each_plan
@pytest.mark.parametrize("file", [HELLO, LARGE], ids=["small", "large"])
def test_an_answer_that_is_held_for_nearly_ten_minutes_is_one_delivery(plan: Plan, file: bytes) -> None:
    """R40."""
    played = play(plan, {"final": Answer("250 2.0.0 queued", delay=590)}, file=file)

    assert isinstance(played.outcome, Delivered)
    assert played.seconds == pytest.approx(590)
    assert [message.content for message in played.server.taken] == [file]


@each_plan
@pytest.mark.parametrize(("stage", "seconds"), [("MAIL", 300), ("RCPT", 300), ("final", 600)])
def test_an_octet_in_ten_seconds_buys_no_time(plan: Plan, stage: str, seconds: float) -> None:
    """H3: the deadline is the reply's, not the octet's."""
    drip = Answer(b"250-" + b"x" * 100, drip=10)
    played = play(plan, {stage: drip}, file=LARGE)

    assert played.seconds == pytest.approx(seconds)
    assert deferred(played.outcome).possible_duplicate is (stage == "final")


@each_plan
def test_a_server_that_takes_no_more_is_left_after_three_minutes_without_the_end(plan: Plan) -> None:
    """H5: RFC 5321 section 4.5.3.2.5."""
    played = play(plan, {}, file=LARGE, stuck_after="RCPT" if plan is Plan.CHUNKED else "DATA")

    assert played.seconds == pytest.approx(180)
    assert "took no more in 180 s" in str(played.over)
    assert not deferred(played.outcome).possible_duplicate
    assert played.noted == []
    assert played.server.messages == []
    assert b"\r\n.\r\n" not in played.sent
    assert b"LAST" not in played.sent


def test_a_server_that_stops_answering_while_a_large_message_is_read_is_left_in_time() -> None:
    """An answer that comes behind the next chunk must not be the last that is waited for."""
    played = play(Plan.CHUNKED, {"BDAT": [Answer("250 ok", delay=1.5), STALL]}, file=LARGE, reading=1.0)

    assert "no reply in 180 s after BDAT" in str(played.over)
    assert 180 <= played.seconds <= 180 + 1.0 * len(LARGE) / 65536 + 1.5
    assert deferred(played.outcome).possible_duplicate


def test_where_a_chunk_is_refused_the_next_transaction_has_the_whole_message() -> None:
    """The next is of the same message, for other recipients, and may be open before the next piece is read: what was
    left of the first must not go into it, for the server would take that for the message."""
    played = play(
        Plan.CHUNKED, {"BDAT": ["451 later", "250 ok"]}, to=[ANN, BOB], file=LARGE, reading=1.0, max_recipients=1
    )

    (message,) = played.server.taken
    assert message.recipients == [f"RCPT TO:<{BOB}>"]
    assert message.content == canonical(LARGE)
    assert isinstance(played.outcomes[ANN], Deferred)
    assert isinstance(played.outcomes[BOB], Delivered)


@each_plan
def test_the_end_that_a_server_does_not_take_is_no_duplicate(plan: Plan) -> None:
    """H5: a small message is one write; none of it left."""
    played = play(plan, {}, stuck_after="greeting" if plan is Plan.CHUNKED else "DATA")

    assert played.seconds == pytest.approx(180)
    assert not deferred(played.outcome).possible_duplicate
    assert played.server.messages == []
