"""One daemon per spool."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from relayd.mail.errors import SpoolLocked
from relayd.spool.lock import INSTANT, Lock, holder

HOLDER = """
import sys, time
from pathlib import Path
from relayd.spool.lock import Lock
lock = Lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_one_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    lock = Lock.acquire(tmp_path / "lock")

    with pytest.raises(SpoolLocked, match=f"process {os.getpid()} has this spool"):
        Lock.acquire(tmp_path / "lock")
    lock.release()

    Lock.acquire(tmp_path / "lock").release()


def test_a_killed_holder_has_let_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SpoolLocked, match=f"process {holder.pid} "):
            Lock.acquire(path)

        holder.send_signal(signal.SIGKILL)
        holder.wait()

    Lock.acquire(path).release()


def test_it_is_not_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    lock = Lock.acquire(tmp_path / "lock")

    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        lock.release()
        try:
            Lock.acquire(tmp_path / "lock").release()
        finally:
            child.kill()


def test_it_is_held_until_the_last_child_that_shares_it_has_ended(tmp_path: Path) -> None:
    lock = Lock.acquire(tmp_path / "lock")

    with subprocess.Popen(["sleep", "60"], pass_fds=[lock.descriptor]) as child:
        lock.release()
        try:
            with pytest.raises(SpoolLocked):
                Lock.acquire(tmp_path / "lock")
        finally:
            child.kill()

    Lock.acquire(tmp_path / "lock").release()


def test_who_looks_for_the_holder_is_told_and_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    assert not path.exists()
    lock = Lock.acquire(path)

    assert holder(path) == str(os.getpid())
    lock.release()
    assert holder(path) is None
    Lock.acquire(path).release()


def test_who_only_looks_keeps_no_daemon_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    look = os.open(path, os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)
    over = threading.Timer(INSTANT / 5, os.close, [look])
    over.start()

    Lock.acquire(path).release()
    over.join()
