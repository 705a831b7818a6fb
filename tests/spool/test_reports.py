"""relayd.spool.reports: what was counted and what is owed, in a file whose loss costs nothing but reports."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from relayd.mail.errors import QueueError
from relayd.mail.report import Counted, Owed
from relayd.spool import reports
from relayd.spool.reports import NAME, ReportsFile

DAY = date(2026, 11, 26)
NOW = datetime(2026, 11, 27, 1, tzinfo=UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ReportsFile]:
    store = ReportsFile(tmp_path)
    yield store
    await store.close()


def replaced(kept: str | None, by: str) -> str:
    return f"{kept or ''}{by}"


async def count(store: ReportsFile, *domains: str, day: date = DAY, text: str = "x") -> None:
    await store.add({(day, domain): lambda kept: replaced(kept, text) for domain in domains})


async def planned(store: ReportsFile, *domains: str, day: date = DAY) -> list[Counted]:
    await count(store, *domains, day=day)
    await store.plan(day + timedelta(days=1), lambda _: NOW)
    return await store.to_make(NOW, 100)


def owed_to(place: str, counted: Counted, *, due: datetime = NOW) -> Owed:
    return Owed(
        day=counted.day,
        domain=counted.domain,
        place=place,
        id=f"ID-{place}",
        content=b"\x1f\x8b\0content",
        sessions=3,
        failed=1,
        due=due,
        first=due,
    )


async def test_without_anything_to_keep_there_is_no_file(store: ReportsFile, tmp_path: Path) -> None:
    await store.add({})
    await store.plan(DAY, lambda _: NOW)

    assert await store.next_due() is None
    assert await store.to_make(NOW, 10) == []
    assert await store.to_hand_over(NOW, 10) == []
    assert await store.forget(DAY) == 0
    assert list(tmp_path.iterdir()) == []


async def test_what_is_counted_is_changed_where_it_is_kept(store: ReportsFile, tmp_path: Path) -> None:
    await count(store, "a.example")
    await count(store, "a.example", "b.example", text="y")
    await store.close()

    again = ReportsFile(tmp_path)
    assert [(each.domain, each.tally) for each in await again.counted()] == [("a.example", "xy"), ("b.example", "y")]
    await again.close()


async def test_the_file_is_for_us_alone(store: ReportsFile, tmp_path: Path) -> None:
    await count(store, "a.example")

    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


async def test_a_day_that_lasts_is_not_reported(store: ReportsFile) -> None:
    await count(store, "a.example")
    await store.plan(DAY, lambda _: NOW)

    assert await store.next_due() is None


async def test_each_domain_has_a_time_of_its_own_and_keeps_it(store: ReportsFile) -> None:
    await count(store, "a.example", "b.example")
    times = iter([NOW, NOW + timedelta(hours=1)])
    await store.plan(DAY + timedelta(days=1), lambda _: next(times))
    await store.plan(DAY + timedelta(days=1), lambda _: next(times))

    assert await store.next_due() == NOW
    assert [each.domain for each in await store.to_make(NOW, 10)] == ["a.example"]
    assert [each.domain for each in await store.to_make(NOW + timedelta(hours=1), 10)] == ["a.example", "b.example"]


async def test_what_was_tried_in_vain_waits(store: ReportsFile) -> None:
    (counted,) = await planned(store, "a.example")
    later = NOW + timedelta(minutes=5)
    await store.make_later(counted, later)

    assert await store.next_due() == later
    assert await store.to_make(NOW, 10) == []
    (again,) = await store.to_make(later, 10)
    assert (again.tries, again.first, again.tally) == (1, NOW, "x")


async def test_a_report_that_is_made_ends_the_count_and_is_owed_to_each_place(
    store: ReportsFile, tmp_path: Path
) -> None:
    (counted,) = await planned(store, "a.example")
    both = [owed_to("mailto:x@a.example", counted), owed_to("https://a.example/", counted)]
    await store.made(counted, both)
    await count(store, "a.example")  # by a clock that was set back

    assert await store.counted() == await store.to_make(NOW, 10) == []
    assert sorted(await store.to_hand_over(NOW, 10), key=lambda owed: owed.place) == sorted(
        both, key=lambda owed: owed.place
    )
    assert await store.next_due() == NOW
    with closing(sqlite3.connect(tmp_path / NAME)) as connection:
        assert connection.execute("SELECT tally FROM counted").fetchall() == [("",)]


async def test_a_report_is_made_once(store: ReportsFile) -> None:
    (counted,) = await planned(store, "a.example")
    await store.made(counted, [owed_to("mailto:x@a.example", counted)])
    await store.made(counted, [owed_to("mailto:x@a.example", counted), owed_to("mailto:y@a.example", counted)])
    await store.plan(DAY + timedelta(days=1), lambda _: NOW)

    assert [owed.place for owed in await store.to_hand_over(NOW, 10)] == ["mailto:x@a.example"]
    assert await store.to_make(NOW, 10) == []


async def test_what_nobody_wants_is_dropped(store: ReportsFile) -> None:
    (counted,) = await planned(store, "a.example")
    await store.made(counted, ())

    assert await store.next_due() is None
    assert await store.owed() == []


async def test_what_is_handed_over_is_owed_no_more(store: ReportsFile) -> None:
    (counted,) = await planned(store, "a.example")
    await store.made(counted, [owed_to("https://a.example/", counted), owed_to("https://b.example/", counted)])
    first, second = await store.to_hand_over(NOW, 10)
    await store.handed_over(first)
    later = NOW + timedelta(minutes=5)
    await store.hand_over_later(second, later)

    assert await store.to_hand_over(NOW, 10) == []
    (left,) = await store.to_hand_over(later, 10)
    assert (left.place, left.tries, left.first, left.content) == (second.place, 1, NOW, second.content)


async def test_old_days_are_forgotten_and_what_was_not_done_is_told(store: ReportsFile) -> None:
    old = DAY - timedelta(days=5)
    done, made, _ = await planned(store, "a.example", "b.example", "c.example", day=old)
    await store.made(done, ())
    await store.made(made, [owed_to("https://a.example/", made)])
    await count(store, "a.example")

    assert await store.forget(DAY) == 2
    assert await store.forget(DAY) == 0
    assert [each.day for each in await store.counted()] == [DAY]
    assert await store.owed() == []


async def test_a_day_has_room_for_so_many_domains(store: ReportsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_DOMAINS", 2)
    await count(store, "a.example", "b.example", "c.example")
    await count(store, "a.example", "d.example")
    await count(store, "d.example", day=DAY + timedelta(days=1))

    kept = [(each.day, each.domain, each.tally) for each in await store.counted()]
    assert kept == [
        (DAY, "a.example", "xx"),
        (DAY, "b.example", "x"),
        (DAY + timedelta(days=1), "d.example", "x"),
    ]


async def test_a_day_has_room_for_so_many_octets(store: ReportsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_OCTETS", 100)
    await count(store, "a.example", text="x" * 100)
    await count(store, "b.example")
    await count(store, "a.example", text="1")  # counts may still get longer
    await count(store, "a.example", text="x" * 100)

    assert [(each.domain, len(each.tally)) for each in await store.counted()] == [("a.example", 101)]


async def test_a_change_that_fails_changes_nothing(store: ReportsFile) -> None:
    def failing(kept: str | None) -> str:
        raise RuntimeError("no")

    await count(store, "a.example")
    with pytest.raises(RuntimeError):
        await store.add({(DAY, "b.example"): lambda kept: "new", (DAY, "c.example"): failing})

    assert [each.domain for each in await store.counted()] == ["a.example"]


# troubles


async def test_a_damaged_file_is_moved_aside_and_begun_anew(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a database " * 1000)
    store = ReportsFile(tmp_path)

    with pytest.raises(QueueError, match="the daemon moves it aside, and counts anew"):
        await count(store, "a.example")
    await count(store, "a.example")

    assert [each.domain for each in await store.counted()] == ["a.example"]
    assert (tmp_path / f"{NAME}.damaged").read_bytes().startswith(b"not a database")
    await store.close()


async def test_a_file_that_is_damaged_while_it_is_used_is_moved_aside(store: ReportsFile, tmp_path: Path) -> None:
    await count(store, *(f"{number}.example" for number in range(500)), text="x" * 500)
    await store.close()
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 65536)

    with pytest.raises(QueueError):
        await store.counted()
    await count(store, "a.example")

    assert (tmp_path / f"{NAME}.damaged").exists()
    assert [each.domain for each in await store.counted()] == ["a.example"]


async def test_a_file_that_somebody_removed_is_begun_anew(store: ReportsFile, tmp_path: Path) -> None:
    await count(store, "a.example")
    for path in tmp_path.iterdir():
        path.unlink()

    assert await store.counted() == []
    await count(store, "b.example")
    assert [each.domain for each in await store.counted()] == ["b.example"]


async def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / NAME)) as connection:
        connection.execute("PRAGMA user_version = 99")
    store = ReportsFile(tmp_path)

    with pytest.raises(QueueError, match="written by a newer relayd"):
        await count(store, "a.example")
    assert not (tmp_path / f"{NAME}.damaged").exists()
    await store.close()


async def test_a_directory_that_is_gone_is_a_trouble_of_the_store(tmp_path: Path) -> None:
    store = ReportsFile(tmp_path / "gone")

    with pytest.raises(QueueError):
        await count(store, "a.example")
    (tmp_path / "gone").mkdir()
    await count(store, "a.example")
    await store.close()


async def test_who_only_reads_writes_nothing_and_sees_what_is_committed(store: ReportsFile, tmp_path: Path) -> None:
    reader = ReportsFile(tmp_path, read_only=True)
    assert await reader.counted() == []
    await count(store, "a.example")

    assert [each.domain for each in await reader.counted()] == ["a.example"]
    with pytest.raises(QueueError):
        await count(reader, "b.example")
    assert [each.domain for each in await store.counted()] == ["a.example"]
    await reader.close()


async def test_many_at_once_take_turns(store: ReportsFile) -> None:
    await asyncio.gather(*(count(store, f"{number}.example") for number in range(20)))

    assert len(await store.counted()) == 20
