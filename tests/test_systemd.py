"""What systemd/ installs: how exposed the unit is, that a program can live under it, and the modes of the spool.

That the daemon delivers under the same restrictions is shown in tests/wire/test_sandbox.py.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.sections import RelaySection
from tests.support import sandbox
from tests.support.sandbox import LIFECYCLE, NOT_REPRODUCED, REPRODUCED, read_unit

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "systemd" / "relayd.service"
EXPOSURE = 1.5

PROBE = """
import ctypes, errno, fcntl, mmap, os, socket, sys
def refused(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
spool = sys.argv[1]
open(spool + "/written", "w").close()
open("/tmp/mine", "w").close()
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print("uid", status["Uid"].split()[0])
print("capabilities", status["CapEff"].strip(), status["CapBnd"].strip())
print("no_new_privs", status["NoNewPrivs"].strip())
print("system", refused(lambda: open("/etc/relayd-test", "w")))
print("spool_setgid", refused(lambda: os.chmod(spool + "/written", 0o2660)))
print("netlink", refused(lambda: socket.socket(socket.AF_NETLINK)))
print("writable_code", refused(lambda: mmap.mmap(-1, 4096, prot=7)))
print("nice", refused(lambda: os.nice(1)))
print("devices", sorted(os.listdir("/dev"))[0])
def owner(name):
    try:
        return os.stat(f"/proc/{name}").st_uid
    except FileNotFoundError:  # it has ended
        return os.getuid()
print("processes of others", len([n for n in os.listdir("/proc") if n.isdigit() and owner(n) != os.getuid()]))
print("lease", refused(lambda: fcntl.fcntl(os.open("/etc/passwd", os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)))
page = mmap.mmap(-1, mmap.PAGESIZE)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print("mincore", ctypes.CDLL(None).mincore(ctypes.c_void_p(address), mmap.PAGESIZE, (ctypes.c_ubyte * 1)()))
"""


def installed(name: str) -> str:
    """Return the path of one of systemd's programs; skips the test where there is none."""
    if (found := shutil.which(name)) is None:
        pytest.skip(f"{name} is not installed")
    return found


def seconds(unit: dict[str, list[str]], key: str) -> float:
    return float(unit[key][0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty system with relayd's snippets, and a user and its spool made from them."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give directories to another user")
    for kind in ("sysusers", "tmpfiles"):
        directory = tmp_path / "usr" / "lib" / f"{kind}.d"
        directory.mkdir(parents=True)
        shutil.copy(ROOT / "systemd" / f"relayd.{kind}", directory / "relayd.conf")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc" / "group").write_text("root:x:0:\n")
    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        words = [installed(command[0]), *command[1:], f"--root={tmp_path}"]
        subprocess.run(words, check=True, capture_output=True, timeout=30)
    return tmp_path


def account(root: Path) -> tuple[int, int]:
    """Return relayd's user and group number in the system below `root`."""
    lines = [line.split(":") for line in (root / "etc" / "passwd").read_text().splitlines()]
    return next((int(fields[2]), int(fields[3])) for fields in lines if fields[0] == "relayd")


def test_the_exposure_is_low() -> None:
    words = [installed("systemd-analyze"), "security", "--offline=true", "--no-pager", str(UNIT)]
    report = subprocess.run(words, capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"Overall exposure level for relayd\.service: ([0-9.]+)", report)

    assert found is not None, report
    assert float(found[1]) <= EXPOSURE


def test_the_unit_has_no_mistakes_that_systemd_sees(tmp_path: Path) -> None:
    unit = tmp_path / "relayd.service"
    text = UNIT.read_text().replace("/usr/bin/relayd", "/bin/true")  # the package is not installed here
    unit.write_text(text)

    done = subprocess.run(
        [installed("systemd-analyze"), "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )

    assert [line for line in done.stderr.splitlines() if "relayd.service" in line] == []


def test_every_directive_is_reproduced_or_said_not_to_be() -> None:
    assert set(read_unit(UNIT)) <= REPRODUCED | set(NOT_REPRODUCED) | LIFECYCLE


def test_it_is_started_watched_reloaded_and_stopped_as_the_daemon_expects() -> None:
    unit = read_unit(UNIT)

    assert (unit["Type"], unit["NotifyAccess"]) == (["notify"], ["main"])
    assert unit["ExecStart"] == ["/usr/bin/relayd --config /etc/relayd/config.toml"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert seconds(unit, "WatchdogSec") == 60
    assert unit["RestartPreventExitStatus"] == ["78"]


def test_stopping_takes_longer_than_the_grace_for_what_is_in_flight() -> None:
    assert seconds(read_unit(UNIT), "TimeoutStopSec") > RelaySection().stop_grace.total_seconds()


def test_a_user_without_a_login_is_made(root: Path) -> None:
    line = next(line for line in (root / "etc" / "passwd").read_text().splitlines() if line.startswith("relayd:"))

    assert line.endswith(":/var/spool/relayd:/usr/sbin/nologin")


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("", 0o750),
        ("new", 0o3770),
        ("tmp", 0o3770),
        ("cur", 0o3770),
        ("queue", 0o700),
        ("rejected", 0o700),
    ],
)
def test_the_spool_is_made_with_its_modes(root: Path, path: str, mode: int) -> None:
    made = (root / "var" / "spool" / "relayd" / path).stat()

    assert stat.S_IMODE(made.st_mode) == mode
    assert (made.st_uid, made.st_gid) == account(root)


def test_the_configuration_is_for_root_to_write_and_for_relayd_to_read(root: Path) -> None:
    made = (root / "etc" / "relayd").stat()

    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (0o750, 0, account(root)[1])


def test_making_the_spool_again_keeps_what_is_in_it(root: Path) -> None:
    waiting = root / "var" / "spool" / "relayd" / "new" / "x.eml"
    waiting.write_text("Subject: x\n")

    subprocess.run(
        [installed("systemd-tmpfiles"), "--create", "--clean", f"--root={root}"], check=True, capture_output=True
    )

    assert waiting.read_text() == "Subject: x\n"


def test_the_sandbox_restricts_as_the_unit_says(tmp_path: Path) -> None:
    if reason := sandbox.unavailable():
        pytest.skip(reason)
    spool, probe = tmp_path / "spool", tmp_path / "probe.py"
    spool.mkdir()
    shutil.chown(spool, "nobody")
    probe.write_text(PROBE)

    words = sandbox.prefix(UNIT, user="nobody", writable=[spool], visible=[probe])
    done = subprocess.run([*words, sys.executable, str(probe), str(spool)], capture_output=True, text=True, timeout=60)

    assert done.stdout.splitlines() == [
        "uid 65534",
        "capabilities 0000000010000000 0000000010000000",  # CAP_LEASE
        "no_new_privs 1",
        "system EROFS",
        "spool_setgid EPERM",
        "netlink EAFNOSUPPORT",
        "writable_code EPERM",
        "nice EPERM",
        "devices fd",
        "processes of others 0",
        "lease allowed",
        "mincore 0",
    ], done.stderr
    assert not Path("/tmp/mine").exists()
