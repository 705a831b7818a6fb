"""P2: a sample of what `make power-cut` does in full, and that what it stands on is as it says."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.kills.ground import Ground
from tests.power.cuts import Cut, prefixes, samples, singles
from tests.power.disk import Effect, Image, Inode, Link, Rename, Step, Sync, Unlink, Write, pending, survived
from tests.power.reading import Conversation
from tests.power.reality import deliver
from tests.power.recording import Recording, few, others, record, record_again
from tests.power.sweep import check
from tests.power.trace import calls

with_strace = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop files of other owners"),
    pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace"),
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground(tmp_path_factory.mktemp("power")) as ground:
        yield ground


@pytest.fixture(scope="module", params=[few, others], ids=["few", "others"])
def recording(ground: Ground, request: pytest.FixtureRequest) -> Recording:
    return record(ground, request.param())


def _is_claim(step: Step) -> bool:
    return isinstance(step.effect, Rename) and step.effect.new.name.endswith(".orig")


class TestWithStrace:
    pytestmark = with_strace

    def test_after_a_power_cut_nothing_is_lost_or_twice(self, recording: Recording, tmp_path: Path) -> None:
        """P2: cuts with one change missing, with all that may be, and with any number of them, by chance."""
        seed = time.time_ns() % 2**32
        print(f"seed {seed}")
        rng = random.Random(seed)
        instants = prefixes(recording.steps)
        cuts = rng.sample(list(singles(recording.steps, instants)), 30)
        cuts += islice(samples(recording.steps, instants, rng), 20)
        found = [check(recording, cut, tmp_path, rng) for cut in cuts]

        assert [fault for each in found for fault in each.faults] == []

    def test_the_daemon_itself_brings_all_mail_to_its_end(self, ground: Ground, recording: Recording) -> None:
        """P2."""
        seed = time.time_ns() % 2**32
        print(f"seed {seed}")

        assert deliver(ground, recording, 2, random.Random(seed)).faults == []

    def test_a_copy_becomes_a_body_only_when_its_original_has_left_for_sure(self, recording: Recording) -> None:
        """P2: else both could be there after a power cut."""
        renames = {place: step.effect for place, step in enumerate(recording.steps) if isinstance(step.effect, Rename)}
        claims = {place for place, each in renames.items() if each.new.name.endswith(".orig")}
        copied = {recording.steps[place].effect for place in claims}
        names = {each.new.name.removesuffix(".orig") for each in copied if isinstance(each, Rename)}
        placed = [place for place, each in renames.items() if each.new.name in names]

        assert len(placed) == len(claims) > 0
        for place in placed:
            assert not claims.intersection(pending(recording.steps, place))

    def test_what_goes_back_is_there_for_sure_before_it_is_taken_anew(self, ground: Ground) -> None:
        """P2: else the next power cut could leave it under its old claim and the new one, and it came twice."""
        first = record(ground, others())
        last = max(place for place, step in enumerate(first.steps) if _is_claim(step))
        second = record_again(ground, first, Cut(count=last + 1))
        renames = {place: step.effect for place, step in enumerate(second.steps) if isinstance(step.effect, Rename)}
        returns = {place for place, each in renames.items() if each.old.name.endswith(".orig")}
        claims = [place for place, step in enumerate(second.steps) if _is_claim(step)]

        assert len(claims) == len(returns) > 0
        for place in claims:
            assert not returns.intersection(pending(second.steps, place))

    def test_what_is_missing_is_seen(self, recording: Recording, tmp_path: Path) -> None:
        """That the check can fail: the bodies of a spool are lost, which no power cut does."""
        last = max(place for place, step in enumerate(recording.steps) if isinstance(step.effect, Rename))
        content = {
            place: None
            for place, step in enumerate(recording.steps)
            if isinstance(step.effect, Rename) and len(step.effect.new.name) == 20
        }
        found = check(recording, Cut(count=last + 40, torn=content), tmp_path, random.Random(1))

        assert found.faults


# the model


def step(place: int, effect: Effect) -> Step:
    return Step(effect=effect, begun=place, ended=place)


def steps(*effects: Effect) -> list[Step]:
    return [step(place, effect) for place, effect in enumerate(effects)]


def an_image() -> Image:
    """`a/` (1) with the file `x` (2), and `b/` (3)."""
    image = Image()
    for number, directory in ((1, True), (2, False), (3, True), (4, False), (5, True)):
        image.inodes[number] = Inode(number=number, owner=0, is_directory=directory)
    image.names = {0: {"a": 1, "b": 3}, 1: {"x": 2}, 3: {}}
    image.contents = {2: bytearray(b"old")}
    return image


MOVED = Rename(old=Unlink(directory=1, name="x", inode=2), new=Link(directory=3, name="y", inode=2))


def paths(image: Image) -> dict[str, bytes]:
    return {
        path: bytes(image.contents.get(inode.number, b"")) for path, inode in image.files() if not inode.is_directory
    }


def test_a_write_is_there_for_sure_when_its_file_was_synced_after_it() -> None:
    write = Write(inode=2, offset=0, content=b"new")

    assert pending(steps(write), 1) == [0]
    assert pending(steps(write, Sync(inode=1)), 2) == [0]
    assert pending(steps(write, Sync(inode=2)), 2) == []
    assert pending(steps(write, Sync(inode=None)), 2) == []
    assert pending(steps(Sync(inode=2), write), 2) == [1]


def test_a_sync_that_began_before_a_write_ended_says_nothing_of_it() -> None:
    write = Step(effect=Write(inode=2, offset=0, content=b"new"), begun=0, ended=2)
    sync = Step(effect=Sync(inode=2), begun=1, ended=3)

    assert pending([write, sync], 2) == [0]


def test_a_rename_is_there_for_sure_when_both_directories_were_synced() -> None:
    assert pending(steps(MOVED, Sync(inode=3)), 2) == [0]
    assert pending(steps(MOVED, Sync(inode=3), Sync(inode=1)), 3) == []


def test_a_rename_that_is_missing_leaves_the_file_where_it_was() -> None:
    assert paths(survived(an_image(), steps(MOVED), 1, {})) == {"b/y": b"old"}
    assert paths(survived(an_image(), steps(MOVED), 1, {0: None})) == {"a/x": b"old"}


def test_a_torn_write_is_there_in_part() -> None:
    write = Write(inode=2, offset=1, content=b"EWER")

    assert paths(survived(an_image(), steps(write), 1, {0: 2})) == {"a/x": b"oEW"}


def test_what_was_made_in_a_directory_is_missing_with_it() -> None:
    made = steps(
        Link(directory=0, name="c", inode=5),
        Rename(old=MOVED.old, new=Link(directory=5, name="y", inode=2)),
        Link(directory=5, name="z", inode=4),
    )

    assert paths(survived(an_image(), made, 3, {})) == {"c/y": b"old", "c/z": b""}
    assert paths(survived(an_image(), made, 3, {0: None})) == {"a/x": b"old"}


def test_a_call_that_another_thread_interrupted_in_the_log_is_read_whole() -> None:
    (write, rename) = calls(
        [
            r'11  pwrite64(5<\x2f\x78>, "\x61\x62" <unfinished ...>',
            r'12  rename("\x2f\x61", "\x2f\x62") = -1 ENOENT (No such file or directory)',
            r'12  rename("\x2f\x63", "\x2f\x64") = 0',
            r"11  <... pwrite64 resumed>, 2, 4096) = 2",
        ]
    )[::-1]

    assert (write.name, write.strings, write.numbers, write.result) == ("pwrite64", (b"ab",), (2, 4096), 2)
    assert (write.begun, write.ended) == (0, 3)
    assert rename.strings == (b"/c", b"/d")


def test_the_end_of_a_message_is_seen_in_what_a_client_says() -> None:
    conversation = Conversation()
    said = [b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", b"text\r\n", b".\r\nMAIL FROM:<>\r\n"]
    said += [b"RCPT TO:<e@f>\r\nDATA\r\n", b"QUIT\r\n"]

    assert [list(conversation.said(each)) for each in said] == [[], [], [["c@d"]], [], []]
