"""`relayd explain` without a daemon: what the queue alone tells.  Beside one: tests/wire/test_explain.py."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from relayd.mail.back_off import BackOff
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.message import new_id
from relayd.mail.recipient import Status
from relayd.spool.lock import Lock
from relayd.spool.sqlite import SqliteQueue
from relayd.view import explaining
from tests.cli.situations import CommandLine, waiting
from tests.spool.mail import HOUR, MINUTE, NOW, a_message

SOON = datetime.now(UTC) + HOUR


def remember(relayd: CommandLine, site: str, *destinations: str, until: datetime = SOON) -> None:
    """Let the queue know that a site backs off, to which destinations lead."""

    async def write() -> None:
        queue = await SqliteQueue.open(relayd.spool / "queue.db", owner="test")
        await queue.routed(dict.fromkeys(destinations, site), NOW)
        reply = "connection \x1b[31mrefused"
        await queue.back_off(
            BackOff(site=site, failures=3, retry_at=until, since=NOW, reply=reply, peer="mx[192.0.2.1]:25")
        )
        await queue.close()

    asyncio.run(write())


def test_a_message_is_explained_gate_by_gate(relayd: CommandLine) -> None:
    message = a_message()
    relayd.queue(message)
    remember(relayd, "mx.example", "one.example")

    lines = relayd("explain", message.id).out.splitlines()

    until = f"{SOON:%Y-%m-%dT%H:%M:%S}Z"
    assert lines[0].startswith(f"{message.id}  2026-11-22T12:00:00Z")
    assert lines[2:] == [
        "  what still waits is given up at 2026-11-27T12:00:00Z",
        "",
        "one.example, at the site mx.example",
        "  open    hold",
        "  open    retry-time       not tried yet; of its site: connection ?[31mrefused",
        "  open    lease            not in flight",
        "  open    route            as it was looked up last",
        f"> closed  back-off         until {until}: out of reach 3 times in a row: connection ?[31mrefused",
        "                           since 2026-11-22T12:00:00Z, last at mx[192.0.2.1]:25",
        "  closed  daemon           no daemon runs",
        lines[-1],
    ]
    assert lines[-1].startswith(f"It waits for the back-off until {until}, 0:5")


def test_what_a_peer_said_reaches_a_program_as_it_came(relayd: CommandLine) -> None:
    message = waiting(relayd, reply="450 \x1b]0;title\x07")

    said = relayd("explain", message.id, "--json")

    assert "\x1b" not in said.out
    (gate,) = (each for each in said.json["explanations"][0]["gates"] if each["gate"] == "retry-time")
    assert gate["why"] == "1 attempt; last mx.one.example[192.0.2.1]:25: 450 \x1b]0;title\x07"
    assert "450 ?]0;title?" in relayd("explain", message.id).out


def test_a_held_message_is_held_first_of_all(relayd: CommandLine) -> None:
    message = waiting(relayd)
    relayd("queue", "hold", message.id)

    (explanation,) = relayd("explain", message.id, "--json").json["explanations"]

    assert (explanation["blocked_by"], explanation["until"]) == ("hold", None)


def test_a_deadline_comes_before_the_lifetime(relayd: CommandLine) -> None:
    message = a_message(deadline=Deadline(at=NOW + MINUTE, mode=DeadlineMode.OWN))
    relayd.queue(message)

    assert relayd("explain", message.id, "--json").json["expires"] == "2026-11-22T12:01:00.000Z"


def test_a_finished_message_waits_for_nothing(relayd: CommandLine) -> None:
    message = a_message()
    relayd.queue(message)
    relayd.attempt(message, Status.DELIVERED, reply="250 2.0.0 taken")

    explained = relayd("explain", message.id, "--json").json

    assert (explained["explanations"], explained["message"]["finished"]) == ([], "2026-11-22T12:00:00.000Z")
    assert relayd("explain", message.id).out.splitlines() == [
        f"{message.id}  finished 2026-11-22T12:00:00Z: it waits for nothing",
        "  ann@one.example  delivered: 250 2.0.0 taken",
        f"  what was tried, and said: relayd history {message.id}",
    ]


def test_only_what_waits_of_a_message_is_explained(relayd: CommandLine) -> None:
    message = a_message("a@one.example", "b@two.example")
    relayd.queue(message)
    relayd("queue", "hold", message.id)

    explained = relayd("explain", message.id, "--json").json

    assert [each["destination"] for each in explained["explanations"]] == ["one.example", "two.example"]


def test_of_a_message_for_very_many_destinations_some_are_explained(
    relayd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "MOST", 3)
    message = a_message(*(f"a@d{number}.example" for number in range(10)))
    relayd.queue(message)

    explained = relayd("explain", message.id, "--json").json

    assert (len(explained["explanations"]), explained["left_out"]) == (3, 7)
    assert relayd("explain", message.id).out.endswith("\n7 other destinations of it are not shown\n")


def test_a_domain_counts_what_waits_there_and_at_its_site(relayd: CommandLine) -> None:
    old = a_message("a@one.example", "b@one.example", arrived=NOW - timedelta(days=1))
    held = a_message("c@one.example")
    relayd.queue(old, held, a_message("d@two.example"), a_message("e@three.example"))
    remember(relayd, "mx.example", "one.example", "two.example", until=NOW)
    relayd("queue", "hold", held.id)

    said = relayd("explain", "ONE.example", "--json").json
    _, lines = (each.splitlines() for each in relayd("explain", "one.example").out.split("\n\n"))

    (explanation,) = said["explanations"]
    assert explanation["waiting"] == {
        "destinations": 1,
        "total": 2,
        "in_flight": 0,
        "held": 1,
        "oldest": "2026-11-21T12:00:00.000Z",
    }
    assert (explanation["waiting_at_site"]["total"], explanation["waiting_at_site"]["held"]) == (3, 1)
    assert lines[0] == "one.example, at the site mx.example"
    assert lines[1] == "  2 recipients wait, 1 held, the oldest since 2026-11-21T12:00:00Z"
    assert lines[2].startswith("  at the site, of 2 destinations: 3 recipients wait, 1 held")
    assert lines[-1] == "It waits, since no daemon runs."


def test_a_domain_is_explained_by_the_message_that_goes_first(relayd: CommandLine) -> None:
    first = waiting(relayd, "ann@one.example", "bob@two.example")
    relayd.queue(a_message("cyd@one.example", arrived=NOW + HOUR))
    relayd("queue", "hold", first.id)

    said, held = relayd("explain", "one.example"), relayd("explain", "two.example")

    assert said.out.startswith("Of what waits for one.example this goes first:\n")
    assert "cyd@one.example" in said.out
    assert "ann@one.example" not in said.out
    assert relayd("explain", "one.example", "--json").json["explanations"][0]["recipients"] == ["cyd@one.example"]
    assert "bob@two.example" in held.out
    assert held.out.endswith(f"It waits until it is released: relayd queue release {first.id}\n")


def test_the_case_of_letters_does_not_keep_an_address_from_being_found(relayd: CommandLine) -> None:
    message = waiting(relayd, "Ann@one.example")

    assert relayd("explain", "aNN@ONE.example", "--json").json["message"]["id"] == message.id
    assert relayd("history", "aNN@ONE.example", "--json").json[0]["id"] == message.id
    assert [each["id"] for each in relayd("queue", "list", "--to", "aNN@ONE.example", "--json").json] == [message.id]


def test_of_an_address_that_nobody_wrote_to_it_is_told(relayd: CommandLine) -> None:
    relayd.queue(a_message("ann@one.example"))

    said = relayd("explain", "nobody@one.example").out

    assert said.startswith("no mail for nobody@one.example waits\n\none.example, at")
    assert said.endswith("\nNew mail would wait, since no daemon runs.\n")


def test_an_address_names_its_messages(relayd: CommandLine) -> None:
    message = a_message("ann@one.example")
    relayd.queue(message, a_message("bob@one.example"))

    assert relayd("explain", "ann@one.example", "--json").json["messages"] == [message.id]
    said = relayd("explain", "ann@one.example").out
    assert said.startswith(f"{message.id}  2026-11-22T12:00:00Z ")


def test_an_address_is_explained_by_the_oldest_message_that_waits_for_it(relayd: CommandLine) -> None:
    oldest = waiting(relayd, "ann@one.example", "bob@one.example")
    another = a_message("ann@one.example", arrived=NOW + HOUR)
    relayd.queue(another)
    relayd("queue", "hold", oldest.id)

    said = relayd("explain", "ann@one.example")

    assert "bob@one.example" not in said.out
    assert f"{another.id} waits for ann@one.example as well: relayd explain {another.id}\n" in said.out
    assert "> closed  hold" in said.out
    assert said.out.endswith(f"It waits until it is released: relayd queue release {oldest.id}\n")


def test_of_an_address_for_which_nothing_waits_it_is_told_what_became_of_the_last(relayd: CommandLine) -> None:
    message = a_message("ann@one.example", "bob@one.example")
    relayd.queue(message)
    relayd.attempt(message, Status.DELIVERED, reply="250 2.0.0 taken")

    said = relayd("explain", "ann@one.example").out.splitlines()

    assert said[0] == f"{message.id}  finished 2026-11-22T12:00:00Z: it waits for nothing"
    assert said[1] == "  ann@one.example  delivered: 250 2.0.0 taken"
    assert said[2] == f"  what was tried, and said: relayd history {message.id}"
    assert said[-1] == "New mail would wait, since no daemon runs."


def test_a_rejected_file_is_explained_by_its_reason(relayd: CommandLine) -> None:
    relayd.queue()
    (relayd.spool / "rejected").mkdir(exist_ok=True)
    (relayd.spool / "rejected" / "x.eml.reason.txt").write_text("there is no \x1b sender\n")

    assert relayd("explain", "x.eml").out == "x.eml is in rejected/: there is no ? sender\n"
    assert relayd("explain", "x.eml", "--json").json["rejected"] == "there is no \x1b sender"
    assert relayd("explain", "../rejected/x.eml").code == 65


def test_a_domain_without_mail_has_none(relayd: CommandLine) -> None:
    relayd.queue()

    said = relayd("explain", "nobody.example").out

    assert "  no mail waits\n" in said
    assert said.endswith("New mail would wait, since no daemon runs.\n")


def test_a_spool_that_is_locked_while_nobody_answers_is_told(relayd: CommandLine) -> None:
    relayd.queue(a_message())
    lock = Lock.acquire(relayd.spool / "lock")

    said = relayd("explain", "one.example").out

    lock.release()
    assert "has the spool and does not answer" in said


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        (new_id(NOW, random=1), "no message 01M81J18G0"),
        ("ann@", "not local-part@domain"),
        ("@one.example", "not local-part@domain"),
        ("no such thing", "no such thing"),
        ("\x1b[2J", "[2J"),
    ],
)
def test_what_is_no_message_address_or_domain_is_refused(relayd: CommandLine, subject: str, said: str) -> None:
    relayd.queue()

    refused = relayd("explain", subject)

    assert refused.code == 65
    assert said in refused.err
    assert "\x1b" not in refused.err


def test_without_a_queue_it_says_so(relayd: CommandLine) -> None:
    assert relayd("explain", "one.example").code == 70
