"""The policies that are known, on a real disk."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.events import Degraded, Event, Restored, Warned
from relayd.route.sts import MAX_MX, Mode, StsPolicy
from relayd.route.sts_cache import MAX_FILE, StsCache, read, written

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def a_policy(domain: str = "example.org", **fields: object) -> StsPolicy:
    base = StsPolicy(
        domain=domain,
        id="20261101",
        mode=Mode.ENFORCE,
        mx=("mx1.example.org", "*.example.net"),
        max_age=DAY * 30,
        fetched=NOW,
    )
    return replace(base, **fields)  # type: ignore[arg-type]


class Disk:
    """A directory, and caches of it as starts of the daemon have them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "mta-sts"
        self.events: list[Event] = []

    async def start(self, now: datetime = NOW, **fields: int | bool) -> StsCache:
        cache = StsCache(self.directory, jitter=lambda: 0.5, events=self.events.append, **fields)  # type: ignore[arg-type]
        await cache.load(now)
        return cache

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def policy_of(cache: StsCache, domain: str = "example.org", now: datetime = NOW) -> StsPolicy | None:
    kept = cache.get(domain, now)
    return kept.policy if kept else None


async def test_what_was_kept_is_there_after_a_restart(disk: Disk) -> None:
    first = await disk.start()
    await first.put(a_policy())
    await first.put(a_policy("none.example", mode=Mode.NONE, mx=()))

    second = await disk.start(NOW + DAY)

    assert policy_of(second) == a_policy()
    assert policy_of(second, "none.example") == a_policy("none.example", mode=Mode.NONE, mx=())
    assert disk.names == ["example.org", "none.example"]
    assert disk.events == []


async def test_another_policy_takes_the_place_of_the_one_before(disk: Disk) -> None:
    cache = await disk.start()
    await cache.put(a_policy())
    await cache.put(a_policy(id="2", mode=Mode.TESTING))

    assert policy_of(cache) == policy_of(await disk.start()) == a_policy(id="2", mode=Mode.TESTING)


async def test_what_has_expired_is_in_force_no_more_and_goes(disk: Disk) -> None:
    cache = await disk.start()
    await cache.put(a_policy())
    await cache.put(a_policy("other.example", max_age=DAY * 60))
    later = NOW + DAY * 30

    assert policy_of(cache, now=later - timedelta(seconds=1))
    assert policy_of(cache, now=later) is None
    cache.sweep(later)
    assert disk.names == ["other.example"]
    assert len(await disk.start(NOW + DAY * 60)) == 0
    assert disk.names == []


async def test_nobody_else_can_read_or_write_it(disk: Disk, tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)  # as a spool may be
    before = os.umask(0)
    try:
        await (await disk.start()).put(a_policy())
    finally:
        os.umask(before)

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (disk.directory, disk.directory / "example.org")]
    assert modes == [0o700, 0o600]


def rotted(disk: Disk, content: bytes, name: str = "example.org") -> None:
    (disk.directory / name).write_bytes(content)


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(written(a_policy())), **fields}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 4096,
        written(a_policy())[:-10],
        b"[]",
        b"null",
        b"[" * 50_000,
        b" " * MAX_FILE + written(a_policy()),
        written(a_policy("other.example")),
        changed(policy=[]),
        changed(policy=None),
        changed(policy=[1]),
        changed(policy=["version: STSv1", "mode: enforce", "max_age: 1"]),
        changed(policy=[*a_policy().lines[:-1], "max_age: 99999999"]),
        changed(fetched="yesterday"),
        changed(fetched="9999-12-31T23:59:59+00:00"),
        changed(fetched=1),
    ],
    ids=range(16),
)
async def test_a_damaged_file_is_told_of_and_no_policy_and_can_be_replaced(disk: Disk, content: bytes) -> None:
    await (await disk.start()).put(a_policy("sound.example"))
    rotted(disk, content)

    cache = await disk.start()

    assert (policy_of(cache), policy_of(cache, "sound.example")) == (None, a_policy("sound.example"))
    (event,) = disk.events
    assert isinstance(event, Warned)
    assert str(disk.directory / "example.org") in event.detail
    await cache.put(a_policy())
    assert policy_of(await disk.start()) == a_policy()


async def test_what_is_no_policys_file_is_told_of(disk: Disk) -> None:
    await disk.start()
    (disk.directory / "a directory").mkdir()
    (disk.directory / "link.example").symlink_to("/etc/passwd")
    os.mkfifo(disk.directory / "fifo.example")
    rotted(disk, written(a_policy()), "EXAMPLE.org")
    rotted(disk, b"half", ".new")

    cache = await disk.start()

    assert len(cache) == 0
    assert len(disk.events) == 4


@given(st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode))
def test_of_any_octets_can_be_said_that_they_are_no_policy(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read("example.org", content)


class TestBounds:
    async def test_what_was_not_used_for_the_longest_goes_first(self, disk: Disk) -> None:
        cache = await disk.start(size=2)
        for name in ("a.example", "b.example"):
            await cache.put(a_policy(name))
        assert policy_of(cache, "a.example")
        await cache.put(a_policy("c.example"))

        assert [policy_of(cache, f"{name}.example") is None for name in "abc"] == [False, True, False]
        assert disk.names == ["a.example", "c.example"]

    async def test_a_restart_remembers_the_day_of_the_last_use(self, disk: Disk) -> None:
        cache = await disk.start()
        await cache.put(a_policy("a.example"))
        await cache.put(a_policy("b.example", fetched=NOW + timedelta(hours=1)))
        assert policy_of(cache, "a.example", NOW + DAY)

        assert await disk.start(NOW + DAY, size=1)
        assert disk.names == ["a.example"]

    async def test_octets_are_bounded_too(self, disk: Disk) -> None:
        large = tuple(f"{number:03}.{'x' * 60}.{'y' * 60}.{'z' * 60}.example" for number in range(MAX_MX))
        cache = await disk.start(octets=60_000)
        for name in "abcd":
            await cache.put(a_policy(f"{name}.example", mx=large))

        assert len(written(a_policy(mx=large))) < MAX_FILE
        assert disk.names == ["c.example", "d.example"]
        await cache.put(a_policy("d.example"))
        await cache.put(a_policy("e.example", mx=large))
        assert disk.names == ["c.example", "d.example", "e.example"]

    async def test_what_is_too_large_all_by_itself_is_kept_alone(self, disk: Disk) -> None:
        cache = await disk.start(octets=10)
        await cache.put(a_policy())
        assert policy_of(cache)


class TestTrouble:
    async def test_a_disk_that_cannot_be_written_is_told_of_once_and_core_remembers(self, disk: Disk) -> None:
        cache = await disk.start()
        disk.directory.rename(disk.directory.with_name("away"))
        await cache.put(a_policy())
        await cache.put(a_policy("b.example"))

        assert policy_of(cache) == a_policy()
        assert [type(event) for event in disk.events] == [Degraded]
        disk.directory.with_name("away").rename(disk.directory)
        await cache.put(a_policy("c.example"))
        assert [type(event) for event in disk.events] == [Degraded, Restored]

    async def test_a_directory_that_cannot_be_read_is_told_of(self, disk: Disk) -> None:
        disk.directory.write_bytes(b"a file")
        cache = await disk.start()
        assert [type(event) for event in disk.events] == [Degraded]
        await cache.put(a_policy())
        assert policy_of(cache) == a_policy()

    async def test_a_clock_that_was_set_back_takes_nothing_out_of_force(self, disk: Disk) -> None:
        cache = await disk.start()
        await cache.put(a_policy())
        assert policy_of(cache, now=NOW - DAY * 400) == a_policy()
        assert policy_of(await disk.start(NOW - DAY * 400), now=NOW - DAY * 400) == a_policy()

    async def test_many_at_once_are_all_written(self, disk: Disk) -> None:
        cache = await disk.start()
        await asyncio.gather(*(cache.put(a_policy(f"d{number}.example")) for number in range(30)))
        assert len(await disk.start()) == 30


async def test_who_only_reads_changes_nothing(disk: Disk) -> None:
    await (await disk.start()).put(a_policy())
    path = disk.directory / "example.org"
    before = path.stat().st_mtime_ns, path.stat().st_ino
    reader = await disk.start(read_only=True)

    assert policy_of(reader, now=NOW + DAY * 2)
    await reader.put(a_policy("b.example"))
    reader.sweep(NOW + DAY * 31)

    assert disk.names == ["example.org"]
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


async def test_who_only_reads_makes_no_directory(disk: Disk) -> None:
    await disk.start(read_only=True)
    assert not disk.directory.exists()


async def test_a_file_is_for_people_too(disk: Disk) -> None:
    await (await disk.start()).put(a_policy())
    text = (disk.directory / "example.org").read_text()
    for line in ("mode: enforce", "mx: *.example.net", "20261101", "2026-11-01T00:00:00+00:00"):
        assert line in text
