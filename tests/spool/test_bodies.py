"""The bodies on disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from relayd.mail.delivery import Delivery
from relayd.mail.message import Body, new_id
from relayd.spool.bodies import Bodies, MissingBody
from tests.spool.mail import NOW
from tests.support.fickle import Fickle

ROOT = Path(__file__).parents[2]


def a_delivery(message_id: str, size: int) -> Delivery:
    body = Body(size=size, wire_size=size, header_end=0)
    return Delivery(id=message_id, reverse_path=None, recipients=(), body=body, arrived=NOW, lease=1)


@pytest.fixture
def bodies(tmp_path: Path) -> Bodies:
    return Bodies(tmp_path)


async def test_small_bodies_are_read_in_the_order_asked_for(bodies: Bodies) -> None:
    contents = {new_id(NOW): b"x" * n for n in range(5)}
    for message_id, content in contents.items():
        bodies.write(message_id, content)

    read = await bodies.read([a_delivery(each, len(content)) for each, content in contents.items()])

    assert read == list(contents.values())


async def test_a_body_that_is_gone_or_cut_short_is_named_never_sent(bodies: Bodies) -> None:
    whole, gone, short = (new_id(NOW) for _ in range(3))
    bodies.write(whole, b"12345")
    bodies.write(short, b"1234")

    with pytest.raises(MissingBody) as raised:
        await bodies.read([a_delivery(each, 5) for each in (whole, gone, short)])

    assert raised.value.ids == (gone, short)


async def test_a_large_body_comes_in_pieces(bodies: Bodies) -> None:
    message_id, content = new_id(NOW), os.urandom(700_000)
    bodies.write(message_id, content)

    pieces = [piece async for piece in bodies.chunks(message_id)]

    assert [len(piece) for piece in pieces] == [262_144, 262_144, 175_712]
    assert b"".join(pieces) == content
    with pytest.raises(MissingBody):
        assert [piece async for piece in bodies.chunks(new_id(NOW))]


async def test_the_head_of_a_body(bodies: Bodies) -> None:
    message_id = new_id(NOW)
    bodies.write(message_id, b"0123456789")

    assert await bodies.head(message_id, 4) == b"0123"
    assert await bodies.head(message_id, 99) == b"0123456789"
    assert await bodies.head(new_id(NOW), 4) == b""


def test_a_body_is_private_and_lies_under_the_end_of_its_id(bodies: Bodies, tmp_path: Path) -> None:
    message_id = new_id(NOW)
    bodies.write(message_id, b"x")

    path = tmp_path / message_id[-2:] / message_id
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_only_the_file_that_was_examined_is_placed(bodies: Bodies, tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"examined")
    other.write_bytes(b"replaced")
    found = path.stat()
    os.rename(other, path)

    assert not bodies.place(path, (found.st_dev, found.st_ino), new_id(NOW))
    assert path.read_bytes() == b"replaced"
    assert not bodies.place(tmp_path / "vanished", (found.st_dev, found.st_ino), new_id(NOW))


def test_what_was_placed_by_mistake_goes_back_and_covers_nothing(tmp_path: Path) -> None:
    """F8: the file was replaced after the last look, and by the time this is seen its name is taken once more."""
    root, new, message_id = tmp_path / "queue", tmp_path / "new", new_id(NOW)
    for directory in (root, new):
        directory.mkdir()
    (new / "x").write_bytes(b"examined")
    (new / "y").write_bytes(b"replaced")
    found = (new / "x").stat()

    assert not Bodies(root).place(Fickle.of(new / "x", new / "y"), (found.st_dev, found.st_ino), message_id)

    assert (new / message_id).read_bytes() == b"replaced"
    assert not Bodies(root).path(message_id).exists()


def test_unlinking_twice_is_no_mistake(bodies: Bodies) -> None:
    message_id = new_id(NOW)
    bodies.write(message_id, b"x")

    assert bodies.unlink([message_id]) == [message_id]
    assert bodies.unlink([message_id]) == [message_id]


def test_a_rewritten_body_is_the_same_in_new_pages(bodies: Bodies) -> None:
    message_id = new_id(NOW)
    bodies.write(message_id, b"x" * 10_000)
    before = bodies.path(message_id).stat().st_ino

    bodies.rewrite(message_id)

    assert bodies.path(message_id).read_bytes() == b"x" * 10_000
    assert bodies.path(message_id).stat().st_ino != before


@pytest.mark.parametrize("count", [1, 10])
def test_syncing_few_and_many(bodies: Bodies, tmp_path: Path, count: int) -> None:
    ids = [new_id(NOW) for _ in range(count)]
    for each in ids:
        bodies.write(each, b"x")

    bodies.sync(ids, [tmp_path])

    assert sorted(each for found in bodies.scan() for each in found) == sorted(ids)


def test_a_new_directory_is_durable_before_its_first_body_counts(bodies: Bodies, tmp_path: Path) -> None:
    message_id = new_id(NOW)
    bodies.write(message_id, b"x")
    calls = _system_calls(
        f"""
        from pathlib import Path
        from relayd.spool.bodies import Bodies
        Bodies(Path({str(tmp_path)!r})).sync([{message_id!r}], [])
        """
    )

    assert any(re.search(rf"fsync\(\d+<{re.escape(str(tmp_path))}>\)", call) for call in calls), calls


def _system_calls(program: str) -> list[str]:
    """Return the syncs that a Python program makes, with the paths of their descriptors."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    words = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync,syncfs", sys.executable, "-c", textwrap.dedent(program)]
    traced = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if "ptrace" in traced.stderr:
        pytest.skip("this machine does not allow tracing")
    assert traced.returncode == 0, traced.stderr
    return traced.stderr.splitlines()


def test_a_scan_yields_bodies_alone_and_clears_what_is_half_made(bodies: Bodies, tmp_path: Path) -> None:
    message_id = new_id(NOW)
    bodies.write(message_id, b"x")
    half = tmp_path / message_id[-2:] / f".{message_id}"
    half.write_bytes(b"")
    (tmp_path / message_id[-2:] / "README").write_bytes(b"")
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / new_id(NOW)).write_bytes(b"")

    assert list(bodies.scan()) == [[message_id]]
    assert not half.exists()
