"""The chunked plan, played: several messages in flight, each answered for itself (RFC 3030, RFC 2920)."""

from __future__ import annotations

import pytest

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Delivered, Failed, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay.capabilities import Capabilities, Limits
from relayd.relay.transaction import Step
from tests.relay.kit import ANN, BOB, CAROL, HELLO, a_delivery, deliveries
from tests.relay.test_engine import OK, QUEUED, Play

CHUNKED = Capabilities(pipelining=True, chunking=True)
FINAL = "250 2.0.0 queued"
TAKEN = (OK, OK, FINAL, OK)  # MAIL, RCPT, BDAT, RSET
FLIGHT = (
    b"MAIL FROM:<sender@example.com>\r\nRCPT TO:<ann@example.org>\r\nBDAT %d LAST\r\n" % len(HELLO)
    + HELLO
    + b"RSET\r\n"
)


def proven(*batch: Delivery, raw: bytes | None = HELLO, **limits: int) -> Play:
    """A play with a server that is known to take this plan."""
    return Play(CHUNKED, *batch, raw=raw, proven=True, **limits)


def test_a_message_is_one_flight() -> None:
    played = proven(a_delivery()).reply(*TAKEN)

    assert played.writes == [FLIGHT]
    assert played.outcomes() == {ANN: QUEUED}
    assert played.noted == ["M1"]


def test_a_window_of_messages_is_one_write() -> None:
    played = proven(*deliveries(5), pipeline_window=3)

    assert played.writes == [FLIGHT * 3]
    played.reply(*TAKEN)
    assert played.writes == [FLIGHT * 3, FLIGHT]
    played.reply(*TAKEN * 4)
    assert [played.outcomes(n) for n in range(5)] == [{ANN: QUEUED}] * 5
    assert played.engine.idle


def test_the_window_opens_when_the_server_has_taken_a_message() -> None:
    played = Play(CHUNKED, *deliveries(4), pipeline_window=16)

    assert played.writes == [FLIGHT]
    played.reply(*TAKEN)
    assert played.writes == [FLIGHT, FLIGHT * 3]


def test_the_window_is_bounded_in_octets_too() -> None:
    played = proven(*deliveries(5), pipeline_window_size=len(FLIGHT) + 1)

    assert played.writes == [FLIGHT * 2]


def test_the_octets_are_counted_and_not_stuffed() -> None:
    file = b"Subject: dots\n\n.\n..\nend"
    played = proven(a_delivery(file=file), raw=file)

    assert b"BDAT 29 LAST\r\nSubject: dots\r\n\r\n.\r\n..\r\nend\r\nRSET\r\n" in played.last


def test_a_refused_sender_costs_only_its_own_message() -> None:
    played = proven(*deliveries(3))
    played.reply(*TAKEN, "550 5.7.1 not you", "503 5.5.1 no", "503 5.5.1 no", OK, *TAKEN)

    refused = Failed(Reply(550, "not you", EnhancedStatus(5, 7, 1)))
    assert [played.outcomes(n)[ANN] for n in range(3)] == [QUEUED, refused, QUEUED]


def test_a_refused_recipient_costs_only_itself() -> None:
    played = proven(a_delivery(to=[ANN, BOB]), a_delivery(name="M2"))
    played.reply(OK, "550 5.1.1 no ann", OK, FINAL, OK, *TAKEN)

    assert played.outcomes() == {
        ANN: Failed(Reply(550, "no ann", EnhancedStatus(5, 1, 1)), scope=Scope.RECIPIENT),
        BOB: QUEUED,
    }
    assert played.outcomes(1) == {ANN: QUEUED}


@pytest.mark.parametrize("final", ["503 5.5.1 no valid recipients", "554 5.5.1 nobody", FINAL])
def test_if_all_recipients_are_refused_nobody_has_it_whatever_is_said_to_the_end(final: str) -> None:
    played = proven(a_delivery()).reply(OK, "450 4.2.0 later", final, OK)

    assert played.outcomes() == {ANN: Deferred(Reply(450, "later", EnhancedStatus(4, 2, 0)), scope=Scope.RECIPIENT)}


@pytest.mark.parametrize("code", [452, 550, 552, 554])
def test_a_refused_message_costs_only_itself(code: int) -> None:
    played = proven(*deliveries(2)).reply(OK, OK, f"{code} no", OK, *TAKEN)

    reply = Reply(code, "no")
    assert played.outcomes() == {ANN: Failed(reply) if code > 499 else Deferred(reply)}
    assert played.outcomes(1) == {ANN: QUEUED}


def test_recipients_too_many_go_again_at_once() -> None:
    played = proven(a_delivery(to=[ANN, BOB, CAROL]), a_delivery(name="M2"))
    played.reply(OK, OK, OK, "452 4.5.3 too many", FINAL, OK, *TAKEN)

    assert b"RCPT TO:<carol@example.org>" in played.last
    played.reply(*TAKEN)
    assert played.outcomes() == {ANN: QUEUED, BOB: QUEUED, CAROL: QUEUED}


def test_more_recipients_than_one_transaction_may_have_are_split() -> None:
    names = [f"r{n}@example.org" for n in range(5)]
    played = proven(a_delivery(to=names), max_recipients=2)

    assert played.writes[0].count(b"BDAT") == 3
    played.reply(OK, OK, OK, FINAL, OK, OK, OK, OK, FINAL, OK, *TAKEN)
    assert played.outcomes() == dict.fromkeys(names, QUEUED)


class TestTheCountOfReplies:
    """One reply too many shifts all that follow: what it would make a success is not one."""

    @pytest.mark.parametrize("at", range(3))
    def test_an_extra_reply_does_not_hide_a_refusal(self, at: int) -> None:
        replies = [OK, OK, "550 5.7.1 spam", OK]
        replies.insert(at, OK)
        played = proven(a_delivery())
        for reply in replies:
            played.reply(reply)

        assert not any(isinstance(one, Delivered) for one in played.loads[0].outcomes.values())
        assert played.engine.over is not None
        assert played.engine.broke

    def test_an_extra_reply_does_not_hide_a_refusal_of_the_last_of_a_window(self) -> None:
        played = proven(*deliveries(2)).reply(OK, OK, FINAL, OK, OK, OK, OK, "550 5.7.1 spam")

        assert not any(isinstance(one, Delivered) for one in played.loads[1].outcomes.values())
        assert played.engine.over is not None

    def test_a_refused_rset_is_a_protocol_error(self) -> None:
        played = proven(a_delivery()).reply(OK, OK, FINAL, "500 what")

        assert played.outcomes()[ANN] == Deferred(
            reason="protocol error after RSET: 500 what to RSET",
            status=EnhancedStatus(4, 5, 0),
            possible_duplicate=True,
        )

    def test_a_reply_in_advance_of_the_body_is_a_protocol_error(self) -> None:
        played = proven(a_delivery()).reply(OK, OK, unsent=10).reply(FINAL, unsent=10)

        assert played.engine.over is not None
        assert "in advance of the end of the message" in str(played.engine.over)
        assert not any(isinstance(one, Delivered) for one in played.loads[0].outcomes.values())

    def test_recipients_accepted_after_a_refused_sender_are_a_protocol_error(self) -> None:
        played = proven(a_delivery()).reply("550 no", OK, FINAL, OK)

        assert isinstance(played.outcomes()[ANN], Deferred)
        assert played.engine.over is not None


class TestTheEnd:
    """The connection ends in the middle of a window."""

    def test_what_was_answered_counts_even_if_the_rset_was_not(self) -> None:
        played = proven(*deliveries(2)).reply(*TAKEN[:3]).lose()

        assert played.outcomes() == {ANN: QUEUED}
        assert played.outcomes(1)[ANN] == Deferred(reason="lost after RSET", possible_duplicate=True)

    def test_every_message_that_may_have_arrived_is_marked_and_no_other(self) -> None:
        played = proven(*deliveries(3))
        played.lose(unsent=len(FLIGHT) + 6 + 3)  # the third flight, the RSET before it, the last octets of the body

        assert played.outcomes(0)[ANN] == Deferred(reason="lost after MAIL", possible_duplicate=True)
        assert played.engine.returned == played.loads[1:]
        assert played.engine.broke

    def test_a_421_leaves_what_is_behind_it_untouched(self) -> None:
        played = proven(*deliveries(3)).reply(*TAKEN, "421 4.3.2 one is enough")

        assert played.outcomes() == {ANN: QUEUED}
        assert played.engine.end.interrupted is played.loads[1]
        assert played.engine.returned == [played.loads[2]]
        assert not played.engine.end.marked
        assert not played.engine.broke

    def test_recipients_refused_for_good_keep_that(self) -> None:
        played = proven(a_delivery(to=[ANN, BOB])).reply(OK, "550 5.1.1 no ann").lose()

        assert played.outcomes() == {
            ANN: Failed(Reply(550, "no ann", EnhancedStatus(5, 1, 1)), scope=Scope.RECIPIENT),
            BOB: Deferred(reason="lost after RCPT", possible_duplicate=True),
        }

    @pytest.mark.parametrize("code", [500, 502, 503])
    def test_a_server_that_does_not_know_bdat_after_all_is_told_of(self, code: int) -> None:
        played = Play(CHUNKED, a_delivery()).reply(OK, OK, f"{code} 5.5.1 what")

        assert played.engine.broke
        assert played.engine.end.interrupted is played.loads[0]
        assert played.loads[0].outcomes == {}


class TestLargeBodies:
    """They stream, in several chunks, once the envelope is accepted."""

    def start(self) -> Play:
        played = proven(a_delivery(), a_delivery(name="M2"), raw=None)
        assert b"BDAT" not in played.last
        played.reply(OK, OK)
        assert played.engine.streaming is not None
        return played

    def write(self, played: Play) -> bytes:
        octets = played.engine.take()
        played.writes.append(octets)
        return octets

    def test_each_piece_is_a_chunk_and_the_last_says_so(self) -> None:
        played = self.start()
        played.engine.body(b"x" * 1000)
        played.engine.body(b"")
        assert self.write(played) == b"BDAT 1000\r\n" + b"x" * 1000
        assert played.engine.awaited is Step.CHUNK

        played.engine.end_body(b"\r\n")
        assert played.engine.endings == [played.loads[0].delivery]
        assert self.write(played) == b"BDAT 2 LAST\r\n\r\nRSET\r\n"
        played.reply(OK, FINAL, OK)
        assert played.outcomes() == {ANN: QUEUED}

    def test_nothing_of_it_is_sent_if_nobody_is_accepted(self) -> None:
        played = proven(a_delivery(), raw=None).reply(OK, "550 no").reply(OK)

        assert played.last == b"RSET\r\n"
        assert played.outcomes()[ANN] == Failed(Reply(550, "no"), scope=Scope.RECIPIENT)

    def test_a_refused_chunk_stops_the_upload(self) -> None:
        played = self.start()
        for _ in range(3):
            played.engine.body(b"x" * 1000)
        self.write(played)
        played.reply(OK, "552 5.3.4 too large")
        assert played.engine.streaming is None
        assert played.last.startswith(b"RSET\r\nMAIL")

        played.reply("503 5.5.1 no", OK)
        assert played.outcomes() == {ANN: Failed(Reply(552, "too large", EnhancedStatus(5, 3, 4)))}
        assert played.engine.over is None

    def test_a_chunk_refused_when_all_are_written_is_the_verdict(self) -> None:
        played = self.start()
        played.engine.body(b"x" * 1000)
        played.engine.end_body(b"\r\n")
        self.write(played)
        played.reply("452 4.3.1 full", "503 5.5.1 no", OK)

        assert played.outcomes() == {ANN: Deferred(Reply(452, "full", EnhancedStatus(4, 3, 1)))}
        assert played.engine.over is None

    def test_a_chunk_refused_before_the_connection_ends_is_the_verdict(self) -> None:
        played = self.start()
        played.engine.body(b"x" * 1000)
        self.write(played)
        played.reply("552 5.3.4 too large").lose()

        assert played.outcomes() == {ANN: Failed(Reply(552, "too large", EnhancedStatus(5, 3, 4)))}

    def test_the_server_owes_answers_for_no_more_than_the_window(self) -> None:
        played = proven(a_delivery(), raw=None, pipeline_window_size=2500).reply(OK, OK)
        for _ in range(2):
            played.engine.body(b"x" * 1000)
            assert not played.engine.full
        played.engine.body(b"x" * 1000)
        assert played.engine.full
        self.write(played)
        played.reply(OK)
        assert not played.engine.full

    def test_a_half_sent_body_is_not_marked(self) -> None:
        played = self.start()
        played.engine.body(b"x" * 1000)
        self.write(played)
        played.lose()

        assert played.engine.end.interrupted is played.loads[0]
        assert not played.engine.end.marked


class TestLimits:
    """RFC 9422."""

    def offering(self, **limits: int) -> Capabilities:
        return Capabilities(pipelining=True, limits=Limits(**limits))

    def test_no_more_messages_than_the_server_takes(self) -> None:
        played = Play(self.offering(mails=2), *deliveries(3))
        played.reply(OK, OK, "354 go", FINAL, OK, OK, "354 go", FINAL)

        assert b"".join(played.writes).count(b"MAIL") == 2
        assert played.engine.spent
        assert played.engine.idle
        assert len(played.engine.settled) == 2

    def test_no_more_recipients_than_the_server_takes(self) -> None:
        names = [f"r{n}@example.org" for n in range(5)]
        played = Play(self.offering(recipients=2), a_delivery(to=names), max_recipients=100)
        played.reply(OK, OK, OK, "354 go", FINAL, OK, OK, OK, "354 go", FINAL, OK, OK, "354 go", FINAL)

        assert b"".join(played.writes).count(b"MAIL") == 3
        assert played.outcomes() == dict.fromkeys(names, QUEUED)

    def test_our_own_limit_holds_if_it_is_less(self) -> None:
        played = Play(self.offering(recipients=1000), a_delivery(to=[ANN, BOB]), max_recipients=1)

        assert played.last.count(b"RCPT") == 1

    def test_recipients_beyond_the_last_message_are_deferred(self) -> None:
        played = Play(self.offering(mails=1, recipients=1), a_delivery(to=[ANN, BOB]))
        played.reply(OK, OK, "354 go", FINAL)

        outcomes = played.outcomes()
        assert outcomes[ANN] == QUEUED
        assert isinstance(outcomes[BOB], Deferred)
        assert "no more than 1 messages" in str(outcomes[BOB])

    def test_no_more_domains_than_the_server_takes(self) -> None:
        played = Play(
            self.offering(domains=1),
            a_delivery(to=[ANN, "dan@example.net"]),
            a_delivery(to=[BOB], name="M2"),
            a_delivery(to=["eve@example.net"], name="M3"),
        )
        played.reply(OK, OK, "354 go", FINAL, OK, OK, "354 go", FINAL)

        outcomes = played.outcomes()
        assert outcomes[ANN] == QUEUED
        assert isinstance(outcomes["dan@example.net"], Deferred)
        assert played.outcomes(1) == {BOB: QUEUED}
        assert played.engine.returned == [played.loads[2]]
        assert played.engine.spent

    def test_what_is_under_way_keeps_its_mark_when_the_rest_may_not_follow(self) -> None:
        offered = Capabilities(pipelining=True, chunking=True, limits=Limits(mails=1, recipients=1))
        played = Play(offered, a_delivery(to=[ANN, BOB]), proven=True).lose()

        ann, bob = (played.loads[0].outcomes[number] for number in (0, 1))
        assert isinstance(ann, Deferred)
        assert ann.possible_duplicate
        assert isinstance(bob, Deferred)
        assert not bob.possible_duplicate


class TestElsewhere:
    """What needs SMTPUTF8 is left for another host (RFC 6531 section 3.2)."""

    def test_it_is_set_aside_while_there_is_another_host(self) -> None:
        delivery = a_delivery(to=["jörg@example.org", ANN])
        played = Play(CHUNKED, delivery, a_delivery(name="M2"), elsewhere=True)

        assert played.engine.unsuited == [played.loads[0]]
        assert played.loads[0].outcomes == {}
        played.reply(*TAKEN)
        assert played.outcomes(1) == {ANN: QUEUED}

    def test_the_other_recipients_get_it_if_there_is_none(self) -> None:
        played = Play(CHUNKED, a_delivery(to=["jörg@example.org", ANN])).reply(*TAKEN)

        outcomes = played.outcomes()
        assert outcomes[ANN] == QUEUED
        assert outcomes["jörg@example.org"].dsn == EnhancedStatus(5, 6, 7)
