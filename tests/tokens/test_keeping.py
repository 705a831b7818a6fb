"""The file of a refresh token that the server replaces."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relayd.tokens.keeping import keep

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "refresh"
    path.write_text("old\n")
    path.chmod(0o640)
    return path


def test_the_new_one_takes_the_place_of_the_old_with_its_mode(path: Path) -> None:
    before = path.stat()
    keep(path, "old", "new")

    after = path.stat()
    assert path.read_text() == "new\n"
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o640)
    assert after.st_ino != before.st_ino
    assert os.listdir(path.parent) == ["refresh"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_its_owner_stays(path: Path) -> None:
    os.chown(path, 12345, 23456)
    keep(path, "old", "new")

    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_a_link_stays_one(path: Path) -> None:
    link = path.parent / "link"
    link.symlink_to(path)
    keep(link, "old", "new")

    assert link.is_symlink()
    assert path.read_text() == "new\n"


def test_what_somebody_else_has_put_there_is_not_overwritten(path: Path) -> None:
    path.write_text("of the operator\n")
    with pytest.raises(ValueError, match="has changed meanwhile") as refused:
        keep(path, "old", "new")

    assert path.read_text() == "of the operator\n"
    assert "operator\n" not in str(refused.value)


def test_a_file_that_may_not_be_written_is_left(path: Path) -> None:
    path.chmod(0o400)
    with as_nobody(path.parent), pytest.raises(PermissionError):
        keep(path, "old", "new")

    assert path.read_text() == "old\n"


@contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """Act as a user who owns the directory but may not write everywhere, if we are root."""
    if os.geteuid() != 0:
        yield
        return
    for each in (directory, *directory.iterdir()):
        os.chown(each, NOBODY, NOBODY)
    for above in directory.parents[:3]:
        above.chmod(above.stat().st_mode | 0o011)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_if_the_owner_cannot_be_kept_nothing_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refusing)
    with pytest.raises(PermissionError):
        keep(path, "old", "new")

    assert path.read_text() == "old\n"
    assert os.listdir(path.parent) == ["refresh"]
