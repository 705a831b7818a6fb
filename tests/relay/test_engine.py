"""The engine, played: replies go in, octets and outcomes come out."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Delivered, Failed, Outcome, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay.capabilities import Capabilities
from relayd.relay.transaction import Load
from tests.relay.kit import ANN, BOB, CAROL, HELLO, a_body, a_delivery, an_engine

LOCK_STEP = Capabilities()
PIPELINED = Capabilities(pipelining=True)
OK = "250 ok"
QUEUED = Delivered(Reply(250, "queued", EnhancedStatus(2, 0, 0)))


class Play:
    """An engine on a stage: deliveries are started as there is room, replies arrive one piece at a time."""

    def __init__(
        self, capabilities: Capabilities, *deliveries: Delivery, raw: bytes | None = HELLO, **limits: Any
    ) -> None:
        self.engine = an_engine(capabilities, **limits)
        self.loads = [Load(delivery, raw) for delivery in deliveries]
        self.waiting = list(self.loads)
        self.writes: list[bytes] = []
        self.noted: list[str] = []
        self._turn()

    def _turn(self) -> None:
        while self.engine.room and self.waiting:
            self.engine.start(self.waiting.pop(0))
        if self.engine.over is None:
            self.noted += [delivery.id for delivery in self.engine.endings]
            if octets := self.engine.take():
                self.writes.append(octets)

    def reply(self, *pieces: str | bytes, unsent: int = 0) -> Play:
        for piece in pieces:
            self.engine.receive(piece if isinstance(piece, bytes) else piece.encode() + b"\r\n", unsent)
            self._turn()
        return self

    def lose(self, unsent: int = 0) -> Play:
        self.engine.break_off(Deferred(scope=Scope.HOST, reason=f"lost {self.engine.where}"), unsent)
        return self

    def outcomes(self, number: int = 0) -> dict[str, Outcome]:
        load = self.loads[number]
        assert load in self.engine.settled
        assert load.complete
        return {str(one.address): load.outcomes[one.number] for one in load.delivery.recipients}

    @property
    def last(self) -> bytes:
        return self.writes[-1]


def play(capabilities: Capabilities, delivery: Delivery, *replies: str | bytes) -> Play:
    return Play(capabilities, delivery).reply(*replies)


def test_lock_step_says_one_command_at_a_time() -> None:
    played = play(LOCK_STEP, a_delivery(), OK, OK, "354 go", "250 2.0.0 queued")

    assert played.writes == [
        b"MAIL FROM:<sender@example.com>\r\n",
        b"RCPT TO:<ann@example.org>\r\n",
        b"DATA\r\n",
        HELLO + b".\r\n",
    ]
    assert played.outcomes() == {ANN: QUEUED}
    assert played.noted == ["M1"]


def test_pipelined_takes_one_round_trip_for_each_message() -> None:
    played = Play(PIPELINED, a_delivery(name="M1"), a_delivery(name="M2"))
    group = b"MAIL FROM:<sender@example.com>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n"
    assert played.writes == [group]

    played.reply(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert played.last == HELLO + b".\r\n" + group

    played.reply(b"250 2.0.0 queued\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert played.last == HELLO + b".\r\n"
    assert played.outcomes(0) == {ANN: QUEUED}

    played.reply("250 2.0.0 queued")
    assert played.outcomes(1) == {ANN: QUEUED}
    assert played.engine.idle


def test_no_rset_is_said_where_all_went_well() -> None:
    played = Play(LOCK_STEP, a_delivery(), a_delivery(name="M2"))
    played.reply(OK, OK, "354 go", OK)
    assert played.last.startswith(b"MAIL")


@pytest.mark.parametrize("capabilities", [LOCK_STEP, PIPELINED])
def test_one_refused_recipient_does_not_stop_the_others(capabilities: Capabilities) -> None:
    played = play(capabilities, a_delivery([ANN, BOB]), OK, OK, "550 5.1.1 no such user", "354 go", "250 2.0.0 queued")

    assert played.outcomes() == {
        ANN: QUEUED,
        BOB: Failed(Reply(550, "no such user", EnhancedStatus(5, 1, 1)), scope=Scope.RECIPIENT),
    }


def test_a_refusal_of_one_and_a_delay_of_the_message_are_kept_apart() -> None:
    played = play(LOCK_STEP, a_delivery([ANN, BOB]), OK, "550 no", OK, "354 go", "452 full")
    assert played.outcomes() == {
        ANN: Failed(Reply(550, "no"), Scope.RECIPIENT),
        BOB: Deferred(Reply(452, "full"), Scope.MESSAGE),
    }


@pytest.mark.parametrize("code", ["200", "250", "251", "252", "299"])
def test_any_2yz_accepts(code: str) -> None:
    played = play(LOCK_STEP, a_delivery(), f"{code} a", code, "354", f"{code} fine")
    assert isinstance(played.outcomes()[ANN], Delivered)


@pytest.mark.parametrize(("reply", "kind"), [("450 no", Deferred), ("550 no", Failed)])
@pytest.mark.parametrize("capabilities", [LOCK_STEP, PIPELINED])
class TestARefusal:
    """4yz and 5yz at each stage."""

    def test_of_the_sender_is_the_messages(self, capabilities: Capabilities, reply: str, kind: type) -> None:
        played = Play(capabilities, a_delivery([ANN, BOB])).reply(reply)
        if capabilities.pipelining:
            played.reply("503 no sender", "503 no sender", "503 no recipients")
        assert played.outcomes() == dict.fromkeys([ANN, BOB], kind(Reply(int(reply[:3]), "no"), Scope.MESSAGE))

    def test_of_all_recipients_is_theirs(self, capabilities: Capabilities, reply: str, kind: type) -> None:
        played = Play(capabilities, a_delivery([ANN, BOB])).reply(OK, reply, reply)
        if capabilities.pipelining:
            played.reply("554 no valid recipients")
        assert played.outcomes() == dict.fromkeys([ANN, BOB], kind(Reply(int(reply[:3]), "no"), Scope.RECIPIENT))

    def test_of_data_is_the_messages(self, capabilities: Capabilities, reply: str, kind: type) -> None:
        played = play(capabilities, a_delivery(), OK, OK, reply)
        assert played.outcomes() == {ANN: kind(Reply(int(reply[:3]), "no"), Scope.MESSAGE)}
        assert played.noted == []

    def test_of_the_content_is_the_messages(self, capabilities: Capabilities, reply: str, kind: type) -> None:
        played = play(capabilities, a_delivery(), OK, OK, "354 go", reply)
        assert played.outcomes() == {ANN: kind(Reply(int(reply[:3]), "no"), Scope.MESSAGE)}

    def test_is_followed_by_a_rset(self, capabilities: Capabilities, reply: str, kind: type) -> None:
        played = Play(capabilities, a_delivery(), a_delivery(name="M2")).reply(OK, reply)
        if capabilities.pipelining:
            played.reply("554 no valid recipients")
            assert played.last.startswith(b"RSET\r\nMAIL FROM:<sender@example.com>\r\nRCPT")
            played.reply(OK)
        else:
            assert played.last == b"RSET\r\n"
            played.reply(OK)
            assert played.last == b"MAIL FROM:<sender@example.com>\r\n"
        played.reply(OK, OK, "354 go", "250 2.0.0 queued")
        assert played.outcomes(1) == {ANN: QUEUED}


def test_a_lone_dot_is_sent_where_nobody_was_accepted_and_the_server_says_354() -> None:
    played = Play(PIPELINED, a_delivery(), a_delivery(name="M2")).reply(OK, "550 no", "354 go")
    assert played.last.startswith(b".\r\nMAIL")
    assert played.noted == []
    played.reply("250 took nothing for nobody")
    assert played.outcomes() == {ANN: Failed(Reply(550, "no"), Scope.RECIPIENT)}


def test_a_lone_dot_is_followed_by_rset_and_a_503_behind_it_is_not_the_next_messages_own() -> None:
    played = Play(PIPELINED, a_delivery()).reply(OK, "550 no", "354 go", "250 took nothing for nobody")
    played.waiting.append(Load(a_delivery(name="M2"), HELLO))
    assert played.reply().last == b".\r\n"
    played._turn()
    assert played.last.startswith(b"RSET\r\nMAIL")

    played = Play(PIPELINED, a_delivery(), a_delivery(name="M2")).reply(OK, "550 no", "354 go")
    played.reply("554 no valid recipients", "503 nested MAIL", "503 no", "503 no")
    assert played.last.startswith(b"RSET\r\nMAIL")
    played.reply(OK, OK, OK, "354 go", "250 2.0.0 queued")
    assert played.outcomes(1) == {ANN: QUEUED}


def test_a_503_behind_another_messages_failure_is_not_the_messages_own() -> None:
    played = Play(PIPELINED, a_delivery(), a_delivery(name="M2")).reply(OK, OK, "354 go")
    played.reply("554 spam", "503 nested MAIL", "503 no", "503 no")
    assert isinstance(played.outcomes(0)[ANN], Failed)
    assert played.last.startswith(b"RSET\r\nMAIL")
    played.reply(OK, OK, OK, "354 go", "250 2.0.0 queued")
    assert played.outcomes(1) == {ANN: QUEUED}


class TestTooManyRecipients:
    """RFC 5321 section 4.5.3.1: more than a transaction takes."""

    def test_more_than_the_limit_go_in_several_transactions(self) -> None:
        names = [f"r{n}@example.org" for n in range(250)]
        played = Play(PIPELINED, a_delivery(names))
        for count in (100, 100, 50):
            played.reply(*[OK] * (count + 1), "354 go", "250 2.0.0 queued")
        assert played.outcomes() == dict.fromkeys(names, QUEUED)
        assert b"".join(played.writes).count(b"MAIL FROM") == 3

    @pytest.mark.parametrize("reply", ["452 too many", "552 too many", "552 5.5.3 too many", "452 4.5.3 too many"])
    @pytest.mark.parametrize("capabilities", [LOCK_STEP, PIPELINED])
    def test_a_full_transaction_is_followed_by_another_at_once(self, capabilities: Capabilities, reply: str) -> None:
        played = Play(capabilities, a_delivery([ANN, BOB, CAROL])).reply(
            OK, OK, reply, reply, "354 go", "250 2.0.0 queued"
        )
        assert played.engine.settled == []
        played.reply(OK, OK, OK, "354 go", "250 2.0.0 queued")
        assert played.outcomes() == dict.fromkeys([ANN, BOB, CAROL], QUEUED)

    @pytest.mark.parametrize("reply", ["552 5.3.4 too large", "552 5.2.3 too large", "552 5.2.2 mailbox full"])
    def test_a_552_that_says_something_else_is_for_good(self, reply: str) -> None:
        played = play(LOCK_STEP, a_delivery([ANN, BOB]), OK, OK, reply, "354 go", "250 2.0.0 queued")
        assert isinstance(played.outcomes()[BOB], Failed)

    def test_it_comes_to_an_end_where_the_first_is_refused(self) -> None:
        played = play(
            LOCK_STEP, a_delivery([ANN, BOB]), OK, OK, "452 full", "354 go", "250 2.0.0 queued", OK, "452 full"
        )
        assert played.outcomes() == {ANN: QUEUED, BOB: Deferred(Reply(452, "full"), Scope.RECIPIENT)}


class TestRepliesInAdvance:
    """FAULTS.md A1 and H10: more than was asked for."""

    def test_a_reply_glued_to_the_354_is_no_answer_to_the_message(self) -> None:
        played = play(PIPELINED, a_delivery(), OK, OK, b"354 go\r\n250 queued as FAKE\r\n")
        assert played.engine.over is not None
        assert "protocol error" in played.engine.over.reason
        assert played.engine.end.interrupted is played.loads[0]
        assert played.noted == []
        assert HELLO not in b"".join(played.writes)

    def test_half_a_reply_glued_to_the_354_is_enough(self) -> None:
        played = play(PIPELINED, a_delivery(), OK, OK, b"354 go\r\n2")
        assert played.engine.over is not None
        assert HELLO not in b"".join(played.writes)

    @pytest.mark.parametrize("stage", range(3))
    def test_lock_step_notices_it_at_every_command(self, stage: int) -> None:
        replies = [OK, OK, "354 go"]
        played = Play(LOCK_STEP, a_delivery()).reply(*replies[:stage], replies[stage] + "\r\n250 more")
        assert played.engine.over is not None
        assert played.engine.settled == []
        assert played.engine.end.interrupted is played.loads[0]

    def test_between_two_messages_it_ends_the_connection(self) -> None:
        played = play(LOCK_STEP, a_delivery(), OK, OK, "354 go", b"250 2.0.0 queued\r\n250 more\r\n")
        assert played.outcomes() == {ANN: QUEUED}
        assert played.engine.over is not None

    def test_to_the_rest_of_a_streaming_body_is_no_success(self) -> None:
        played = Play(LOCK_STEP, a_delivery(), raw=None).reply(OK, OK, "354 go")
        assert played.engine.streaming is not None
        played.reply("250 queued")
        assert played.engine.over is not None
        assert played.engine.end.interrupted is played.loads[0]

    def test_a_2yz_before_the_end_has_left_is_no_success(self) -> None:
        played = play(PIPELINED, a_delivery(), OK, OK, "354 go").reply("250 queued", unsent=100)
        assert played.engine.end.interrupted is played.loads[0]
        assert played.engine.settled == []


class TestARefusalBeforeTheEnd:
    """FAULTS.md H12: 5yz while the body is being sent."""

    def test_is_honoured_while_streaming(self) -> None:
        played = Play(LOCK_STEP, a_delivery(), raw=None).reply(OK, OK, "354 go", "552 too large")
        assert played.outcomes() == {ANN: Failed(Reply(552, "too large"), Scope.MESSAGE)}
        assert played.engine.over is not None

    def test_is_honoured_while_the_end_waits_and_the_next_is_returned(self) -> None:
        played = Play(PIPELINED, a_delivery(), a_delivery(name="M2")).reply(OK, OK, "354 go")
        played.reply("552 too large", unsent=len(played.last))
        assert played.outcomes() == {ANN: Failed(Reply(552, "too large"), Scope.MESSAGE)}
        assert played.engine.returned == [played.loads[1]]


@pytest.mark.parametrize("capabilities", [LOCK_STEP, PIPELINED])
@pytest.mark.parametrize(
    "replies",
    [
        ["354 what"],
        [OK, "354 what"],
        [OK, OK, "250 what"],
        [OK, OK, "350 what"],
        [OK, OK, "220 what"],
        ["150 wait"],
        [OK, "650 what"],
        ["hello"],
        [OK, "550-no\r\n250 ok"],
    ],
)
def test_a_reply_of_the_wrong_class_ends_the_connection_without_a_verdict(
    capabilities: Capabilities, replies: list[str]
) -> None:
    played = play(capabilities, a_delivery(), *replies)
    assert played.engine.over is not None
    assert played.engine.over.scope is Scope.HOST
    assert played.engine.end.interrupted is played.loads[0]
    assert HELLO not in b"".join(played.writes)


@pytest.mark.parametrize("reply", ["354 more", "550-no\r\n250 ok", "rubbish", "150 wait"])
def test_a_final_reply_that_says_nothing_leaves_a_possible_duplicate(reply: str) -> None:
    played = play(PIPELINED, a_delivery(), OK, OK, "354 go", reply)
    (outcome,) = played.outcomes().values()
    assert isinstance(outcome, Deferred)
    assert outcome.possible_duplicate
    assert outcome.scope is Scope.MESSAGE


def test_recipients_accepted_behind_a_refused_mail_end_the_connection() -> None:
    played = play(PIPELINED, a_delivery(), "550 no", OK, "354 go")
    assert played.engine.over is not None
    assert b".\r\n" not in played.last


class TestALostConnection:
    """The place where it is lost decides (RFC 1047)."""

    @pytest.mark.parametrize("capabilities", [LOCK_STEP, PIPELINED])
    @pytest.mark.parametrize("replies", [[], [OK], [OK, OK]])
    def test_before_the_message_interrupts_it(self, capabilities: Capabilities, replies: list[str]) -> None:
        played = play(capabilities, a_delivery(), *replies).lose()
        assert played.engine.end.interrupted is played.loads[0]
        assert played.engine.end.touched is bool(replies)
        assert played.engine.settled == []

    def test_after_the_end_of_the_message_leaves_a_possible_duplicate(self) -> None:
        played = Play(PIPELINED, a_delivery([ANN, BOB]), a_delivery(name="M2"))
        played.reply(OK, OK, "550 no", "354 go").lose()
        assert played.outcomes() == {
            ANN: Deferred(reason="lost after the end of the message", possible_duplicate=True),
            BOB: Failed(Reply(550, "no"), Scope.RECIPIENT),
        }
        assert played.engine.returned == [played.loads[1]]

    def test_with_the_end_still_in_our_hands_does_not(self) -> None:
        played = Play(PIPELINED, a_delivery(), a_delivery(name="M2")).reply(OK, OK, "354 go")
        behind = len(played.writes[0])
        assert played.lose(unsent=behind + 3).engine.end.interrupted is played.loads[0]

    def test_with_only_the_next_envelope_in_our_hands_does(self) -> None:
        played = Play(PIPELINED, a_delivery(), a_delivery(name="M2")).reply(OK, OK, "354 go")
        played.lose(unsent=len(played.writes[0]))
        assert played.engine.settled == [played.loads[0]]
        assert played.engine.end.marked

    def test_between_two_messages_touches_nobody(self) -> None:
        played = Play(PIPELINED, a_delivery(), a_delivery(name="M2")).reply(OK, OK, "354 go", "250 2.0.0 queued").lose()
        assert played.outcomes() == {ANN: QUEUED}
        assert played.engine.end.interrupted is played.loads[1]
        assert not played.engine.end.touched

    def test_between_two_transactions_of_a_message_settles_it(self) -> None:
        played = Play(LOCK_STEP, a_delivery([ANN, BOB]), max_recipients=1).reply(
            OK, OK, "354 go", "250 2.0.0 queued", OK
        )
        played.lose()
        assert played.outcomes() == {ANN: QUEUED, BOB: Deferred(reason="lost after RCPT")}

    def test_keeps_what_was_said_of_a_recipient_for_good(self) -> None:
        played = play(LOCK_STEP, a_delivery([ANN, BOB]), OK, "550 no").lose()
        assert played.loads[0].outcomes == {0: Failed(Reply(550, "no"), Scope.RECIPIENT)}


class Test421:
    """RFC 5321 section 3.8: it may come at any time."""

    @pytest.mark.parametrize("replies", [[], [OK], [OK, OK], [OK, OK, "354 go"]])
    def test_at_any_stage_is_no_verdict(self, replies: list[str]) -> None:
        played = play(LOCK_STEP, a_delivery(), *replies, "421 closing")
        assert played.engine.over == Deferred(Reply(421, "closing"), Scope.HOST)
        assert played.engine.end.interrupted is played.loads[0]
        assert not played.engine.end.marked

    def test_to_the_second_message_leaves_it_untouched(self) -> None:
        played = Play(PIPELINED, a_delivery(), a_delivery(name="M2")).reply(OK, OK, "354 go", "250 2.0.0 queued")
        played.reply("421 one is enough")
        assert played.outcomes() == {ANN: QUEUED}
        assert played.engine.end.interrupted is played.loads[1]
        assert not played.engine.end.touched

    def test_between_messages_is_no_protocol_error(self) -> None:
        played = play(LOCK_STEP, a_delivery(), OK, OK, "354 go", b"250 2.0.0 queued\r\n421 idle\r\n")
        assert played.outcomes() == {ANN: QUEUED}
        assert played.engine.over == Deferred(Reply(421, "idle"), Scope.HOST)


class TestWhatAServerCannotTake:
    """Found before MAIL."""

    def test_a_message_larger_than_its_size_fails_unsent(self) -> None:
        played = Play(Capabilities(size_declared=True, size=10), a_delivery())
        assert played.writes == []
        assert played.outcomes()[ANN].dsn == EnhancedStatus(5, 3, 4)

    def test_eight_bits_fail_without_8bitmime(self) -> None:
        played = Play(LOCK_STEP, a_delivery(body=a_body("a: b\r\n\r\nä".encode())))
        assert played.writes == []
        assert played.outcomes()[ANN].dsn == EnhancedStatus(5, 6, 3)

    def test_an_utf8_sender_fails_without_smtputf8(self) -> None:
        played = Play(Capabilities(eight_bit_mime=True), a_delivery(sender="sänder@example.com"))
        assert played.outcomes()[ANN].dsn == EnhancedStatus(5, 6, 7)

    def test_an_utf8_recipient_fails_alone_without_smtputf8(self) -> None:
        played = Play(LOCK_STEP, a_delivery([ANN, "bøb@example.org"])).reply(OK, OK, "354 go", "250 2.0.0 queued")
        outcomes = played.outcomes()
        assert outcomes[ANN] == QUEUED
        assert outcomes["bøb@example.org"].dsn == EnhancedStatus(5, 6, 7)

    def test_an_utf8_header_fails_without_smtputf8(self) -> None:
        body = a_body("Subject: ä\r\n\r\n".encode(), eight_bit_header=True)
        played = Play(Capabilities(eight_bit_mime=True), a_delivery(body=body))
        assert played.outcomes()[ANN].dsn == EnhancedStatus(5, 6, 9)

    def test_it_does_not_stop_the_next_message(self) -> None:
        large = a_delivery(body=a_body(b"x" * 100))
        played = Play(Capabilities(size_declared=True, size=50), large, a_delivery(name="M2"))
        played.reply(OK, OK, "354 go", "250 2.0.0 queued")
        assert isinstance(played.outcomes(0)[ANN], Failed)
        assert played.outcomes(1) == {ANN: QUEUED}

    def test_an_envelope_with_a_line_end_fails_and_sends_nothing(self) -> None:
        played = Play(Capabilities(dsn=True), a_delivery(envid="x\r\nRSET"))
        assert played.writes == []
        assert isinstance(played.outcomes()[ANN], Failed)


class TestARefusalWhileTheBodyStreams:
    """FAULTS.md H12: what was said of single recipients before counts as well."""

    @pytest.mark.parametrize(("reply", "kind"), [("552 too large", Failed), ("452 full", Deferred)])
    def test_settles_those_who_were_refused_too(self, reply: str, kind: type) -> None:
        played = Play(LOCK_STEP, a_delivery([ANN, BOB]), raw=None).reply(OK, OK, "550 5.1.1 no", "354 go")
        played.engine.body(b"Subject: large\r\n")
        played.reply(reply)
        outcomes = played.outcomes()
        assert isinstance(outcomes[ANN], kind)
        assert outcomes[BOB] == Failed(Reply(550, "no", EnhancedStatus(5, 1, 1)), Scope.RECIPIENT)
        assert len(played.engine.settled) == 1

    def test_defers_those_who_were_to_go_in_another_transaction(self) -> None:
        played = Play(LOCK_STEP, a_delivery([ANN, BOB]), raw=None).reply(OK, OK, "452 4.5.3 too many", "354 go")
        played.reply("552 too large")
        outcomes = played.outcomes()
        assert isinstance(outcomes[ANN], Failed)
        assert isinstance(outcomes[BOB], Deferred)
        assert len(played.engine.settled) == 1

    def test_defers_those_beyond_the_limit_of_a_transaction(self) -> None:
        played = Play(LOCK_STEP, a_delivery([ANN, BOB]), raw=None, max_recipients=1).reply(OK, OK, "354 go")
        played.reply("552 too large")
        assert isinstance(played.outcomes()[BOB], Deferred)


def test_the_last_of_a_streaming_body_leaves_with_its_line_end_and_the_dot() -> None:
    played = Play(PIPELINED, a_delivery(), a_delivery(name="M2"), raw=None).reply(OK, OK, "354 go")
    played.engine.body(b"Subject: large\r\n\r\nlarge")
    assert played.engine.take() == b"Subject: large\r\n\r\nlarge"
    assert not played.engine.room
    played.engine.end_body(b"\r\n")
    played.reply()
    played._turn()
    assert played.last.startswith(b"\r\n.\r\nMAIL FROM")
    assert played.noted == ["M1"]
