"""The file on its way: nothing is left of one that fails, and what is dropped can be read by the daemon alone."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.people import ANN, DROPPERS, STRANGER
from tests.sendmail.support import Sendmail
from tests.support.disks import root_only, small_disk
from tests.support.process import wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")
RELAYD = 65534  # nobody is relayd


@pytest.fixture
def shared() -> Iterator[Sendmail]:
    """A spool with the modes of relayd.tmpfiles, where all people of the machine can reach it."""
    directory = Path(tempfile.mkdtemp(prefix="relayd-sendmail-", dir="/tmp"))
    directory.chmod(0o755)
    sendmail = Sendmail(directory)
    for name in ("", "new", "tmp"):
        os.chown(sendmail.spool / name, RELAYD, DROPPERS)
        (sendmail.spool / name).chmod(0o3770 if name else 0o750)
    sendmail.config.chmod(0o644)
    try:
        yield sendmail
    finally:
        shutil.rmtree(directory)


@needs_root
def test_a_member_of_the_group_drops_what_relayd_can_read_and_strangers_cannot(shared: Sendmail) -> None:
    done = shared.by(ANN, "bob@example.net")

    assert (done.returncode, done.stderr) == (0, b"")
    (file,) = shared.files
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (ANN.user, DROPPERS, 0o640)
    assert shared.message()[0].envelope.reverse_path.local_part == str(ANN.user)  # type: ignore[union-attr]


@needs_root
def test_a_stranger_is_refused_in_words(shared: Sendmail) -> None:
    done = shared.by(STRANGER, "bob@example.net")

    assert done.returncode == 73
    assert done.stderr.decode().endswith("Permission denied; is the user in relayd's group?\n")


@needs_root
def test_where_all_may_drop_and_nobody_may_look_a_stranger_drops(shared: Sendmail) -> None:
    shared.spool.chmod(0o751)
    for name in ("new", "tmp"):
        (shared.spool / name).chmod(0o3773)

    done = shared.by(STRANGER, "bob@example.net")

    assert (done.returncode, done.stderr) == (0, b"")
    (file,) = shared.files
    assert (file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (DROPPERS, 0o640)


@needs_root
def test_what_relayd_could_not_read_is_not_dropped(shared: Sendmail) -> None:
    shared.spool.chmod(0o755)
    for name in ("new", "tmp"):
        (shared.spool / name).chmod(0o1777)

    done = shared.by(STRANGER, "bob@example.net")

    assert (done.returncode, shared.files) == (78, [])
    assert b"lacks its set-gid bit" in done.stderr


@needs_root
def test_a_configuration_that_the_caller_may_not_read_is_told(shared: Sendmail) -> None:
    shared.config.chmod(0o640)

    done = shared.by(STRANGER, "bob@example.net")

    assert done.returncode == 78
    assert done.stderr.decode().endswith("whoever sends mail has to be allowed to read it\n")


@needs_root
def test_the_null_sender_and_a_key_work_for_others(shared: Sendmail) -> None:
    assert shared.by(ANN, "-f", "<>", "--key", "k", "bob@example.net").returncode == 0
    assert len(shared.files) == 1


def test_a_spool_that_is_not_there_is_told(sendmail: Sendmail) -> None:
    shutil.rmtree(sendmail.spool)

    done = sendmail("bob@example.net")

    assert done.returncode == 73
    assert b"No such file or directory" in done.stderr


@root_only
def test_on_a_full_disk_it_is_to_be_tried_later_and_nothing_is_left(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=4m"):
        sendmail = Sendmail(tmp_path / "disk")

        done = sendmail("bob@example.net", content=b"\n" + os.urandom(8 * 2**20).hex().encode())

        assert (done.returncode, sendmail.files) == (75, [])
        assert done.stderr.decode().endswith("No space left on device\n")


class Slow:
    """A call whose message is still being written."""

    def __init__(self, sendmail: Sendmail) -> None:
        self.sendmail = sendmail
        self.process = subprocess.Popen(
            sendmail.command("-i", "bob@example.net"),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=sendmail.environment(),
        )
        assert self.process.stdin is not None
        self.process.stdin.write(b"Subject: x\n\n" + b"x" * 200_000)
        self.process.stdin.flush()
        wait_until(lambda: [*(sendmail.spool / "tmp").iterdir()], "it writes")

    def end(self) -> tuple[int, bytes]:
        """Return its exit code, and what it told."""
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_call_drops_nothing_and_leaves_nothing(sendmail: Sendmail, number: signal.Signals) -> None:
    slow = Slow(sendmail)
    slow.process.send_signal(number)

    assert slow.end() == (75, f"sendmail: interrupted by {number.name}\n".encode())
    assert sendmail.files == []


def test_a_killed_call_drops_nothing(sendmail: Sendmail) -> None:
    slow = Slow(sendmail)
    slow.process.kill()

    assert slow.end()[0] == -signal.SIGKILL
    assert [*(sendmail.spool / "new").iterdir()] == []


def test_a_message_is_durable_before_the_command_ends(sendmail: Sendmail, tmp_path: Path) -> None:
    """In this order: its octets, its name, the directory that the name is in."""
    trace = tmp_path / "trace"
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    command = [
        "strace",
        "-y",
        "-e",
        "trace=fsync,rename,renameat,renameat2",
        "-o",
        str(trace),
        *sendmail.command("bob"),
    ]
    subprocess.run(command, input=b"\nhello\n", env=sendmail.environment(), timeout=60, check=True)

    calls = [line.partition("(")[0] for line in trace.read_text().splitlines() if "(" in line]
    assert calls == ["fsync", "rename", "fsync"]
    assert trace.read_text().splitlines()[2].count(f"<{sendmail.spool / 'new'}>") == 1
