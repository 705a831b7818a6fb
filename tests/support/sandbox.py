"""Run a command under a unit's restrictions, as far as they can be set without systemd.

`prefix()` gives what to put before the command.  Two steps, both this file run as a program:

    enter   as root: namespaces and mounts as the unit says, then setpriv becomes the user with the unit's capabilities
    filter  as that user: limits, then the seccomp filters, then the command

A private /tmp and a hidden /root would hide the tests themselves, so paths that the command needs are bound again:
`writable` ones, and `visible` ones read-only.  A directive of the unit that is neither reproduced nor listed in
`NOT_REPRODUCED` makes tests/test_systemd.py fail.  Only the standard library is used, and no other module of tests
but seccomp, so that nothing of it can hide what the command lacks.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.support import seccomp  # noqa: E402

REPRODUCED = frozenset(
    {
        *("User", "Group", "UMask", "LimitNOFILE", "ReadWritePaths"),
        *("CapabilityBoundingSet", "AmbientCapabilities", "NoNewPrivileges"),
        *("ProtectSystem", "ProtectHome", "ProtectProc", "PrivateTmp", "PrivateDevices", "PrivateMounts"),
        *("PrivateIPC", "ProtectHostname", "ProtectClock", "ProtectControlGroups", "ProtectKernelLogs"),
        *("ProtectKernelTunables", "LockPersonality", "MemoryDenyWriteExecute", "RestrictAddressFamilies"),
        *("RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"),
        *("SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber"),
    }
)
NOT_REPRODUCED = {
    "DevicePolicy": "a BPF program on the service's cgroup; here /dev has no other devices at all",
    "KeyringMode": "a session keyring of the unit's own; the system-call filter refuses keyctl anyway",
    "ProtectKernelModules": "the capability and the calls are gone; /usr/lib/modules stays readable here",
    "RemoveIPC": "happens after the unit has ended",
    "RuntimeDirectory": "a directory of its own in /run, gone when the unit has ended; no restriction",
    "RuntimeDirectoryMode": "likewise",
    "TasksMax": "a limit of the service's cgroup",
}
# How it is started, watched and stopped: no restriction.
LIFECYCLE = frozenset(
    {
        *("Type", "NotifyAccess", "WatchdogSec", "KillMode", "TimeoutStopSec", "OOMPolicy"),
        *("ExecStart", "ExecReload", "Restart", "RestartSec", "RestartPreventExitStatus"),
    }
)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


def read_unit(path: Path) -> dict[str, list[str]]:
    """Return the directives of the [Service] section, each with its values in order."""
    directives: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            directives.setdefault(key, []).append(value)
    return directives


def unavailable() -> str:
    """Return why a sandbox cannot be made here, "" if it can."""
    if os.geteuid() != 0:
        return "mount namespaces and another user need root"
    for name in ("setpriv", "unshare", "systemd-analyze"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        return "mount namespaces cannot be made here"
    try:
        ctypes.CDLL(seccomp.LIBRARY)
    except OSError:
        return f"{seccomp.LIBRARY} is not installed"
    return ""


def prefix(unit: Path, *, user: str, writable: Sequence[Path], visible: Sequence[Path] = ()) -> list[str]:
    """Return the words to put before a command; `writable` stands for the unit's ReadWritePaths."""
    needed = {ROOT, Path(sys.prefix), Path(sys.base_prefix), *visible}
    command = [sys.executable, str(Path(__file__)), "enter", f"--unit={unit}", f"--user={user}"]
    command += [f"--writable={path}" for path in writable] + [f"--visible={path}" for path in sorted(needed)]
    return [*command, "--"]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(_libc.mount(*arguments), f"mount {target}")


def _read_only(path: str, wanted: bool) -> None:
    flag = MOUNT_ATTR_RDONLY
    attributes = _MountAttributes(set=flag if wanted else 0, clear=0 if wanted else flag)
    arguments = (AT_FDCWD, path.encode(), AT_RECURSIVE, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _check(_libc.syscall(SYS_MOUNT_SETATTR, *arguments), f"read-only {path}")


def _bind(descriptor: int, target: str) -> None:
    _mount(f"/proc/self/fd/{descriptor}", target, flags=MS_BIND | MS_REC)


def _new_dev() -> None:
    """PrivateDevices=: the pseudo-devices, and nothing behind which there is hardware."""
    held = {name: os.open(f"/dev/{name}", os.O_PATH) for name in DEVICES}
    _mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755")
    for name, descriptor in held.items():
        Path("/dev", name).touch()
        _bind(descriptor, f"/dev/{name}")
    Path("/dev/shm").mkdir()
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        Path("/dev", name).symlink_to(f"/proc/self/{target}")
    _read_only("/dev", True)
    _mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")


def _isolate(writable: Sequence[Path], visible: Sequence[Path]) -> None:
    """ProtectSystem=strict and its kin."""
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC), "unshare")
    _mount("", "/", flags=MS_REC | MS_PRIVATE)
    held = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in (*visible, *writable)]
    _read_only("/", True)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=invisible")
    for name in ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger"):
        if Path(name).exists():
            _mount(name, name, flags=MS_BIND)
            _read_only(name, True)
    _new_dev()
    for name, mode in (
        ("/home", "755"),
        ("/root", "755"),
        ("/run/user", "755"),
        ("/tmp", "1777"),
        ("/var/tmp", "1777"),
    ):
        if Path(name).is_dir():
            _mount("tmpfs", name, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode}")
    for path, descriptor in held:
        if not path.exists():
            path.mkdir(parents=True) if Path(f"/proc/self/fd/{descriptor}").is_dir() else _touch(path)
        _bind(descriptor, str(path))
        _read_only(str(path), path not in writable)
    for name in ("/home", "/root", "/run/user"):
        if Path(name).is_dir():
            _mount(name, name, flags=MS_BIND | MS_REC)
            _read_only(name, True)


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _enter(arguments: argparse.Namespace) -> list[str]:
    """Isolate this process; return the command that goes on as the user."""
    unit = read_unit(arguments.unit)
    _isolate(arguments.writable, [arguments.unit, *arguments.visible])
    os.chdir("/")
    account = pwd.getpwnam(arguments.user)
    kept = "".join(f",+{name.removeprefix('CAP_').lower()}" for name in unit["CapabilityBoundingSet"][0].split())
    ambient = "".join(f",+{name.removeprefix('CAP_').lower()}" for name in unit["AmbientCapabilities"][0].split())
    return [
        *("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--no-new-privs"),
        *(f"--bounding-set=-all{kept}", f"--inh-caps=-all{ambient}", f"--ambient-caps=-all{ambient}"),
        *(sys.executable, __file__, "filter", f"--unit={arguments.unit}", "--", *arguments.command),
    ]


def _restrict(unit: dict[str, list[str]]) -> None:
    """Set limits and load the filters; the list of allowed calls comes last, since it allows no more loading.

    The limit of files is at most the one we were given: to raise that, root would have to be asked.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(int(unit["LimitNOFILE"][0]), hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.umask(int(unit["UMask"][0], 8))
    calls = seccomp.allowed_calls(unit["SystemCallFilter"], seccomp.groups())
    filters = [
        seccomp.deny_write_execute(),
        seccomp.restrict_address_families(unit["RestrictAddressFamilies"][0].split()),
        *seccomp.restrict_namespaces(),
        seccomp.restrict_realtime(),
        *seccomp.restrict_set_id(),
        seccomp.lock_personality(),
        seccomp.only(calls),
    ]
    for each in filters:
        each.load()


def main() -> None:
    """`sandbox.py enter|filter --unit=FILE ... -- COMMAND`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["enter", "filter"])
    parser.add_argument("--unit", type=Path, required=True)
    parser.add_argument("--user")
    parser.add_argument("--writable", type=Path, action="append", default=[])
    parser.add_argument("--visible", type=Path, action="append", default=[])
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    command = arguments.command
    if arguments.step == "enter":
        command = _enter(arguments)
    else:
        _restrict(read_unit(arguments.unit))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
