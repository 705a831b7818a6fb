"""`relayd tls-report`: what was counted, and what waits to be handed over."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path

from relayd.mail.report import Owed
from relayd.mail.tls import TlsResult
from relayd.report.counting import Failure, Policy, PolicyType, Tally
from relayd.spool.reports import ReportsFile
from tests.cli.situations import CommandLine
from tests.report.schema import check

DAY, NEXT = date(2026, 11, 26), date(2026, 11, 27)
DUE = datetime(2026, 11, 27, 2, 30, tzinfo=UTC)


def a_tally() -> str:
    tally = Tally()
    tally.add(Policy(type=PolicyType.NONE, domain="example.net"), None, 12)
    dane = Policy(type=PolicyType.TLSA, domain="mx.example.net", strings=("3 1 1 ab",))
    tally.add(
        dane,
        Failure(result=TlsResult.TLSA_INVALID, host="mx.example.net", address="192.0.2.1", detail="matches \x1b none"),
        2,
    )
    return tally.packed()


def keep(spool: Path) -> None:
    """Let two days be counted, one of them over, and a report be owed."""
    spool.mkdir(exist_ok=True)

    async def write() -> None:
        kept = ReportsFile(spool)
        await kept.add({(DAY, name): lambda _: a_tally() for name in ("example.net", "example.org")})
        await kept.plan(NEXT, lambda _: DUE)
        first, second = await kept.to_make(DUE, 10)
        owed = Owed(
            day=DAY,
            domain=second.domain,
            place="https://sink.example/",
            id="ID",
            content=b"x",
            sessions=14,
            failed=2,
            due=DUE,
            first=DUE,
            tries=3,
        )
        assert first.domain == "example.net"
        await kept.made(second, [owed])
        await kept.add({(NEXT, "example.net"): lambda _: a_tally()})
        await kept.close()

    asyncio.run(write())


def test_it_shows_what_was_counted_and_what_waits(relayd: CommandLine) -> None:
    keep(relayd.spool)

    said = relayd("tls-report")

    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "2026-11-26  example.net  14 sessions, 2 failed  due 2026-11-27T02:30:00Z",
        "  no-policy-found: 12 succeeded, 0 failed",
        "  tlsa of mx.example.net: 0 succeeded, 2 failed",
        "    2 tlsa-invalid at mx.example.net[192.0.2.1]: matches ? none",
        "2026-11-27  example.net  14 sessions, 2 failed  the day is not over",
        "  no-policy-found: 12 succeeded, 0 failed",
        "  tlsa of mx.example.net: 0 succeeded, 2 failed",
        "    2 tlsa-invalid at mx.example.net[192.0.2.1]: matches ? none",
        "2026-11-26  example.org  to https://sink.example/  next try 2026-11-27T02:30:00Z, tried 3 times",
    ]


def test_a_domain_and_a_day_can_be_asked_for(relayd: CommandLine) -> None:
    keep(relayd.spool)

    def shown(*words: str) -> list[tuple[str, str]]:
        said = relayd("tls-report", *words, "--json").json
        return [(each["day"], each["domain"]) for each in (*said["counted"], *said["owed"])]

    assert shown("Example.NET") == [("2026-11-26", "example.net"), ("2026-11-27", "example.net")]
    assert shown("--day", "2026-11-26") == [("2026-11-26", "example.net"), ("2026-11-26", "example.org")]
    assert shown("example.org", "--day", "2026-11-27") == []


def test_for_programs_it_has_the_report_as_it_would_be_sent(relayd: CommandLine) -> None:
    keep(relayd.spool)

    said = relayd("tls-report", "--json").json

    first = said["counted"][0]
    assert set(first) == {"day", "domain", "sessions", "failed", "due", "tries", "report"}
    assert (first["due"], first["sessions"]) == ("2026-11-27T02:30:00.000Z", 14)
    check(first["report"])
    assert first["report"]["contact-info"] == "postmaster@relay.test"
    (owed,) = said["owed"]
    assert owed == {
        "day": "2026-11-26",
        "domain": "example.org",
        "to": "https://sink.example/",
        "sessions": 14,
        "failed": 2,
        "due": "2026-11-27T02:30:00.000Z",
        "tries": 3,
    }


def test_where_nothing_was_counted_there_is_nothing_to_show(relayd: CommandLine) -> None:
    relayd.spool.mkdir()

    assert relayd("tls-report").out == ""
    assert relayd("tls-report", "--json").json == {"counted": [], "owed": []}
    assert list(relayd.spool.iterdir()) == []


def test_it_says_if_nothing_is_reported(relayd: CommandLine) -> None:
    relayd.config.write_text(relayd.config.read_text() + "[tls.report]\nenabled = false\n")
    keep(relayd.spool)

    assert relayd("tls-report").out.startswith("no reports are sent: tls.report is off")
    assert relayd("tls-report", "--json").json["counted"][0]["report"] is None


def test_a_mistake_on_the_command_line_is_told(relayd: CommandLine) -> None:
    assert relayd("tls-report", "--day", "yesterday").code == 64
    assert relayd("tls-report", "not a domain").code == 65


def test_a_damaged_file_is_told_of_and_left_alone(relayd: CommandLine) -> None:
    relayd.spool.mkdir()
    (relayd.spool / "tlsrpt.db").write_bytes(b"not a database " * 1000)

    said = relayd("tls-report")

    assert said.code == 70
    assert "tlsrpt.db" in said.err
    assert [path.name for path in relayd.spool.iterdir()] == ["tlsrpt.db"]
