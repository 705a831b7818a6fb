"""What a server offers, and says of itself (FAULTS.md A11, A12, H13, H17; RFC.md R9 to R13, R24, R25, R35, R38).

By each of the three plans, on real sockets.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from relayd.mail.address import Address
from relayd.mail.outcome import Deferred, Delivered, Failed, Scope
from relayd.mail.recipient import Notify, Recipient
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay.plans import Plan
from tests.relay.faults import EHLO, a_bench, each_plan, offering
from tests.relay.kit import ANN, HELLO, a_body, a_delivery, a_site, deliveries, until
from tests.support.smtp import Script, ScriptedServer

PLAN_KEYWORDS = {Plan.LOCK_STEP: (), Plan.PIPELINED: ("PIPELINING",), Plan.CHUNKED: ("PIPELINING", "CHUNKING")}


def ehlo(plan: Plan, *keywords: str) -> str:
    """Return a reply to EHLO that offers `keywords`, and what the plan needs."""
    lines = ["mx.test", *PLAN_KEYWORDS[plan], *keywords]
    return "\n".join([f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"])


@each_plan
async def test_a_message_larger_than_a_server_takes_is_never_begun(plan: Plan) -> None:
    """A11, R13."""
    bench = a_bench()
    large = HELLO + b"x" * 5000 + b"\r\n"
    bench.files.files["M1"] = large
    async with ScriptedServer({"EHLO": ehlo(plan, "SIZE 1000")}) as server:
        ended = await bench.run(a_site(server.port), [a_delivery(file=large), a_delivery(name="M2")])

        outcome = bench.reports.outcome("M1")
        assert isinstance(outcome, Failed)
        assert outcome.dsn == EnhancedStatus(5, 3, 4)
        assert (ended.settled, ended.delivered) == (2, 1)
        assert [line for line in server.connections[0].commands if "MAIL" in line] == [
            f"MAIL FROM:<sender@example.com> SIZE={len(HELLO)}"
        ]


@each_plan
@pytest.mark.parametrize(
    "size", ["SIZE", "SIZE 0", "SIZE -1", "SIZE abc", "SIZE 99999999999999999999", "SIZE 9" + "9" * 30]
)
async def test_a_size_that_is_no_limit_stops_nothing(plan: Plan, size: str) -> None:
    """H13, R13: what is transmitted is told all the same."""
    bench = a_bench()
    async with ScriptedServer({"EHLO": ehlo(plan, size)}) as server:
        assert (await bench.run(a_site(server.port), [a_delivery()])).delivered == 1
        assert f" SIZE={len(HELLO)}" in server.connections[0].commands[1]


@each_plan
@pytest.mark.parametrize(
    ("reply", "kind"), [("452 4.3.1 later", Deferred), ("552 5.3.4 too large", Failed), ("552 too large", Failed)]
)
async def test_a_size_that_is_refused_at_mail_is_the_messages(plan: Plan, reply: str, kind: type) -> None:
    """R13."""
    bench = a_bench()
    async with ScriptedServer({"EHLO": ehlo(plan, "SIZE 9999"), "MAIL": [reply]}) as server:
        ended = await bench.run(a_site(server.port), deliveries(2))
        assert isinstance(bench.reports.outcome("M0"), kind)
        assert ended.delivered == 1


@each_plan
async def test_size_tells_the_octets_without_the_dots_that_were_added(plan: Plan) -> None:
    """R13, R22: RFC 1870 section 5; a chunk's count is of what is sent."""
    file = b"Subject: dots\n\n" + b".dot\n" * 10
    bench = a_bench()
    bench.files.default = file
    async with ScriptedServer({"EHLO": ehlo(plan, "SIZE")}) as server:
        sent = len(file) + file.count(b"\n")
        await bench.run(a_site(server.port), [a_delivery(file=file, body=a_body(file, wire_size=sent))])

        assert len(server.taken[0].content) == sent
        assert f" SIZE={sent}" in server.connections[0].commands[1]
        assert plan is not Plan.CHUNKED or f"BDAT {sent} LAST" in server.connections[0].commands


@each_plan
async def test_no_octet_above_127_goes_to_a_server_without_8bitmime(plan: Plan) -> None:
    """A12, R23: and no BODY= either; with 8BITMIME it goes as it is, and says so."""
    file = "Subject: a\r\n\r\nhällo\r\n".encode()
    bench = a_bench()
    bench.files.default = file
    async with ScriptedServer({"EHLO": ehlo(plan, "SIZE")}) as server:
        await bench.run(a_site(server.port), [a_delivery(file=file)])
        (connection,) = server.connections
        assert bytes(connection.octets).isascii()
        assert b"BODY=" not in connection.octets
    async with ScriptedServer({"EHLO": ehlo(plan, "8BITMIME")}) as server:
        await bench.run(a_site(server.port), [a_delivery(file=file, name="M2")])
        assert [message.content for message in server.taken] == [file]
        assert server.connections[0].commands[1].endswith(" BODY=8BITMIME")


@each_plan
@pytest.mark.parametrize(
    "keywords",
    [
        tuple(f"X-KEYWORD-{n} and words of it" for n in range(1500)),
        ("SIZE 1000000", "SIZE 1000000", "8BITMIME", "8bitmime", "DSN", "DSN"),
        ("size 1000000", "8bitmime", "dsn"),
        ("SIZE\t1000000", "8BITMIME  ", "DSN\t", "  DSN"),
        ("AUTH=LOGIN PLAIN", "AUTH LOGIN PLAIN", "=", "-", "250 250", "SIZE -1"),
        ("STARTTLS and more", "LIMITS", "LIMITS RCPTMAX", "LIMITS =", "LIMITS RCPTMAX=0 MAILMAX=x", ""),
    ],
    ids=["many words", "doubles", "lower case", "blanks", "AUTH", "nonsense"],
)
async def test_whatever_a_server_offers_mail_goes_through(plan: Plan, keywords: tuple[str, ...]) -> None:
    """H13."""
    bench = a_bench()
    async with ScriptedServer({"EHLO": ehlo(plan, *keywords)}) as server:
        assert (await bench.run(a_site(server.port), deliveries(2))).delivered == 2


@each_plan
async def test_five_thousand_keywords_are_read(plan: Plan) -> None:
    """H13: within the bound of a reply."""
    bench = a_bench()
    async with ScriptedServer({"EHLO": ehlo(plan, *(f"X{n}" for n in range(5000)), "DSN")}) as server:
        assert (await bench.run(a_site(server.port), deliveries(2))).delivered == 2


@each_plan
async def test_a_server_that_knows_helo_only_is_served_without_extensions(plan: Plan) -> None:
    """R9: what a refused EHLO said is offered by nobody."""
    bench = a_bench()
    refusal = EHLO[plan].replace("250", "502")
    async with ScriptedServer({"EHLO": refusal, "HELO": EHLO[plan]}) as server:
        await bench.run(a_site(server.port), [a_delivery(ret="HDRS", envid="42")])
        (connection,) = server.connections
        assert connection.verbs[:5] == ["EHLO", "HELO", "MAIL", "RCPT", "DATA"]
        assert connection.commands[2:4] == ["MAIL FROM:<sender@example.com>", f"RCPT TO:<{ANN}>"]
        assert len(connection.flights) >= 6  # one command at a time


@each_plan
async def test_a_greeting_of_554_is_answered_with_quit_and_the_next_host_is_tried(plan: Plan) -> None:
    """R10."""
    bench = a_bench()
    async with (
        ScriptedServer(offering(plan, {"greeting": "554 5.3.2 no service"})) as first,
        ScriptedServer(offering(plan)) as second,
    ):
        ended = await bench.run(a_site(first.port, second.port), deliveries(2))
        await until(lambda: first.connections[0].ended)
        assert bytes(first.connections[0].octets) == b"QUIT\r\n"
        assert (ended.delivered, len(second.taken)) == (2, 2)


@each_plan
async def test_many_recipients_go_in_transactions_of_a_hundred(plan: Plan) -> None:
    """R11: and each of them once."""
    names = [f"r{n}@example.org" for n in range(250)]
    bench = a_bench()
    async with ScriptedServer(offering(plan)) as server:
        await bench.run(a_site(server.port), [a_delivery(names), a_delivery(name="M2")])

        assert [len(message.recipients) for message in server.taken] == [100, 100, 50, 1]
        assert Counter(line for message in server.taken[:3] for line in message.recipients) == Counter(
            f"RCPT TO:<{name}>" for name in names
        )
        assert all(isinstance(outcome, Delivered) for outcome in bench.reports.outcomes().values())


@each_plan
@pytest.mark.parametrize("reply", ["452 4.5.3 too many", "452 too many", "552 too many", "552 5.5.3 too many"])
@pytest.mark.parametrize("room", [1, 7, 100])
async def test_what_is_too_many_for_a_server_goes_in_the_next_transaction(plan: Plan, reply: str, room: int) -> None:
    """R12: all are delivered, each once, and nobody bounces."""
    names = [f"r{n}@example.org" for n in range(2 * room + 3)]
    bench = a_bench(settings={"max_recipients": 1000})
    taken = 0

    def mail(line: str) -> str:
        nonlocal taken
        taken = 0
        return "250 ok"

    def rcpt(line: str) -> str:
        nonlocal taken
        taken += 1
        return "250 ok" if taken <= room else reply

    async with ScriptedServer(offering(plan, {"MAIL": mail, "RCPT": rcpt})) as server:
        ended = await bench.run(a_site(server.port), [a_delivery(names)])

        got = Counter(line for message in server.taken for line in message.recipients)
        assert got == Counter(f"RCPT TO:<{name}>" for name in names)
        assert all(isinstance(outcome, Delivered) for outcome in bench.reports.outcomes().values())
        assert (ended.delivered, len(server.connections)) == (1, 1)


@each_plan
@pytest.mark.parametrize("reply", ["552 5.2.2 mailbox full", "552 5.3.4 too large"])
async def test_a_552_that_says_something_else_is_for_good(plan: Plan, reply: str) -> None:
    """R12."""
    bench = a_bench()
    script: dict[str, Script] = {"RCPT": ["250 ok", reply]}
    async with ScriptedServer(offering(plan, script)) as server:
        await bench.run(a_site(server.port), [a_delivery([ANN, "bob@example.org"])])
        outcomes = bench.reports.outcomes()
        assert isinstance(outcomes[ANN], Delivered)
        assert isinstance(outcomes["bob@example.org"], Failed)
        assert len(server.taken) == 1


@each_plan
async def test_an_address_that_needs_smtputf8_is_tried_at_another_host_and_then_refused(plan: Plan) -> None:
    """R24: 5.6.7, and no MAIL; where it is offered, with the parameter, and for others without it."""
    bench = a_bench()
    jose = a_delivery(["josé@example.org"], name="M1")
    async with (
        ScriptedServer({"EHLO": ehlo(plan, "8BITMIME")}) as first,
        ScriptedServer({"EHLO": ehlo(plan, "8BITMIME", "SMTPUTF8")}) as second,
    ):
        await bench.run(a_site(first.port, second.port), [jose])
        assert isinstance(bench.reports.outcome("M1"), Delivered)
        assert "MAIL" not in first.connections[0].verbs
        assert " SMTPUTF8" in second.connections[0].commands[1]
    async with ScriptedServer({"EHLO": ehlo(plan, "8BITMIME")}) as only:
        await bench.run(a_site(only.port), [replace(jose, id="M2"), a_delivery(name="M3")])
        outcome = bench.reports.outcome("M2")
        assert isinstance(outcome, Failed)
        assert outcome.dsn == EnhancedStatus(5, 6, 7)
        assert only.connections[0].verbs.count("MAIL") == 1
    async with ScriptedServer({"EHLO": ehlo(plan, "8BITMIME", "SMTPUTF8")}) as other:
        await bench.run(a_site(other.port), [a_delivery(name="M4")])
        assert b"SMTPUTF8" not in other.connections[0].octets


@each_plan
async def test_a_header_that_needs_smtputf8_is_refused_as_such(plan: Plan) -> None:
    """R24: 5.6.9 where only the header needs it."""
    file = "Subject: hällo\r\n\r\nhello\r\n".encode()
    bench = a_bench()
    bench.files.default = file
    body = a_body(file, eight_bit_header=True)
    async with ScriptedServer({"EHLO": ehlo(plan, "8BITMIME")}) as server:
        await bench.run(a_site(server.port), [a_delivery(file=file, body=body)])
        outcome = bench.reports.outcome()
        assert isinstance(outcome, Failed)
        assert outcome.dsn == EnhancedStatus(5, 6, 9)
        assert "MAIL" not in server.connections[0].verbs


@each_plan
@pytest.mark.parametrize("offered", [True, False])
async def test_dsn_parameters_go_unchanged_to_those_who_know_them_only(plan: Plan, offered: bool) -> None:
    """R25."""
    ann = Recipient(
        number=0, address=Address.parse(ANN), notify=Notify.SUCCESS | Notify.DELAY, orcpt="rfc822;Ann+2Bx@Example.ORG"
    )
    bench = a_bench()
    async with ScriptedServer({"EHLO": ehlo(plan, *(["DSN"] if offered else ["HELP"]))}) as server:
        await bench.run(a_site(server.port), [a_delivery(recipients=[ann], ret="HDRS", envid="QQ+2B42")])

        assert bench.reports.of("M1").relays_dsn is offered
        parameters = [" RET=HDRS ENVID=QQ+2B42", " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Ann+2Bx@Example.ORG"]
        assert server.connections[0].commands[1:3] == [
            "MAIL FROM:<sender@example.com>" + (parameters[0] if offered else ""),
            f"RCPT TO:<{ANN}>" + (parameters[1] if offered else ""),
        ]


@each_plan
@pytest.mark.parametrize(
    ("limits", "recipients", "mails"),
    [
        ("RCPTMAX=20 MAILMAX=3", 20, 3),
        ("rcptmax=20 mailmax=3", 20, 3),
        ("MAILMAX=2 X-OTHER=7 nonsense", 100, 2),
        ("RCPTMAX=500", 100, None),
        ("RCPTMAX=0 MAILMAX=0", 100, None),
        ("RCPTMAX=abc MAILMAX=-1", 100, None),
        ("RCPTMAX=1", 1, None),
    ],
)
async def test_the_limits_that_a_server_tells_are_kept(
    plan: Plan, limits: str, recipients: int, mails: int | None
) -> None:
    """R35: RFC 9422; ours where they are less; what cannot be understood is none."""
    bench = a_bench()
    names = [f"r{n}@example.org" for n in range(40)]
    batch = [a_delivery(names, name="M0"), *deliveries(5)[1:]]
    async with ScriptedServer({"EHLO": ehlo(plan, f"LIMITS {limits}")}) as server:
        ended = await bench.run(a_site(server.port), batch)

        (connection,) = server.connections
        assert all(isinstance(one, Delivered) for a in bench.reports.attempts for one in a.outcomes.values())
        assert (ended.settled + len(ended.undone), ended.failure) == (5, None)
        assert max(len(message.recipients) for message in server.taken) == min(recipients, 40)
        wanted = -(-40 // recipients) + 4
        assert connection.verbs.count("MAIL") == (wanted if mails is None else min(mails, wanted))


@each_plan
async def test_no_more_domains_than_a_server_takes_are_named_on_one_connection(plan: Plan) -> None:
    """R35: RCPTDOMAINMAX."""
    bench = a_bench()
    batch = [a_delivery([f"a@d{n}.example"], name=f"M{n}") for n in range(5)]
    async with ScriptedServer({"EHLO": ehlo(plan, "LIMITS RCPTDOMAINMAX=2")}) as server:
        ended = await bench.run(a_site(server.port), batch)
        assert (ended.delivered, [one.id for one in ended.undone], ended.failure) == (2, ["M2", "M3", "M4"], None)


@pytest.mark.parametrize("name", ["relay.example.org", "[192.0.2.1]", "[IPv6:2001:db8::1]"])
async def test_we_say_who_we_are(name: str) -> None:
    """R38: a name, or an address literal."""
    bench = a_bench()
    bench.settings = replace(bench.settings, hostname=name)
    async with ScriptedServer({"EHLO": "502 no"}) as server:
        await bench.run(a_site(server.port), [a_delivery()])
        assert server.connections[0].commands[:2] == [f"EHLO {name}", f"HELO {name}"]


INJECTED = ["\r\nRCPT TO:<evil@example.net>", "\n", "\r", "\x00", "\x85", "\u2028", "\t", "\x7f", ">\r\nDATA\r\n.\r\n<"]


@each_plan
@pytest.mark.parametrize("text", INJECTED, ids=repr)
@pytest.mark.parametrize("place", ["sender", "recipient", "envid", "orcpt"])
async def test_an_envelope_never_becomes_another_command(plan: Plan, text: str, place: str) -> None:
    """S3, behind what submission refuses: whatever is in a queue that somebody wrote to, a command stays one line."""
    evil = Address(local_part=f"x{text}", domain="example.com")
    ann = Recipient(
        number=0,
        address=evil if place == "recipient" else Address.parse(ANN),
        orcpt=f"rfc822;x{text}" if place == "orcpt" else None,
    )
    first = a_delivery(name="M1", recipients=[ann], envid=f"x{text}" if place == "envid" else None)
    if place == "sender":
        first = replace(first, reverse_path=evil)
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"EHLO": ehlo(plan, "DSN", "8BITMIME")})) as server:
        await bench.run(a_site(server.port), [first, a_delivery(name="M2")])

        (connection,) = server.connections
        assert isinstance(bench.reports.outcome("M2"), Delivered)
        assert set(connection.verbs) <= {"EHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "QUIT"}
        assert len([line for line in connection.commands if line.startswith("RCPT")]) <= 2
        assert b"evil" not in connection.octets
        assert isinstance(bench.reports.outcome("M1"), Failed)
        assert [message.recipients for message in server.taken] == [[f"RCPT TO:<{ANN}>"]]


@each_plan
async def test_a_server_that_calls_itself_as_we_are_called_is_ourselves(plan: Plan) -> None:
    """H17: mail would come back for ever."""
    bench = a_bench()
    own = EHLO[plan].replace("mx.test", bench.settings.hostname)
    async with ScriptedServer({"greeting": f"220 {bench.settings.hostname} ESMTP", "EHLO": own}) as server:
        ended = await bench.run(a_site(server.port), [a_delivery()])
        assert ended.failure is not None
        assert ended.failure.scope is Scope.HOST
        assert (ended.failure.dsn.subject, ended.failure.dsn.detail) == (4, 6)
        assert server.messages == []


@each_plan
async def test_a_recipient_refused_as_unknown_keeps_its_reply(plan: Plan) -> None:
    """R4, R6: whatever digits follow the first."""
    bench = a_bench()
    async with ScriptedServer(offering(plan, {"RCPT": "599 5.9.9 what"})) as server:
        await bench.run(a_site(server.port), [a_delivery()])
        assert bench.reports.outcome() == Failed(Reply(599, "what", EnhancedStatus(5, 9, 9)), Scope.RECIPIENT)
