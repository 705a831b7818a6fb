"""A small internet with DNSSEC: a signed root and zones below it by BIND, and Unbound as a resolver that validates.

Both are child processes of the test, on loopback addresses and port 53, so the test has to be in a network of its own
(tests/support/netns.py).  Nothing of the system's own BIND or Unbound is touched: configuration, keys and zones are in
a directory of the test's.

    internet = SignedInternet(directory, ["secure.test"], unsigned=["insecure.test"], bogus=["bogus.test"])
    internet.add("mx.secure.test", "A", "127.0.1.1")
    with internet: ...  # ask 127.0.0.1

A bogus zone is signed by another key than its parent says.  A record that is spoilt is not what was signed.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.exception
import dns.flags
import dns.message
import dns.query

from tests.support.mta import program
from tests.support.process import PATIENCE, wait_until

RESOLVER, AUTHORITY, NOBODY = "127.0.0.1", "127.0.0.2", "127.0.0.9"
ALGORITHM = "ECDSAP256SHA256"
TTL = 60


class SignedInternet:
    """See the module."""

    def __init__(
        self, directory: Path, signed: Sequence[str], *, unsigned: Sequence[str] = (), bogus: Sequence[str] = ()
    ) -> None:
        self._directory = directory
        self._signed = ("", *signed, *bogus)
        self._bogus = bogus
        self._zones = sorted({*self._signed, *unsigned}, key=lambda zone: -len(zone))
        self._lines: dict[str, list[str]] = {zone: [] for zone in self._zones}
        self._spoilt: list[tuple[str, str]] = []
        self._running: list[subprocess.Popen[bytes]] = []

    def add(self, name: str, rdtype: str, *values: str) -> None:
        """Give `name` records."""
        zone = next(zone for zone in self._zones if not zone or name == zone or name.endswith(f".{zone}"))
        self._lines[zone] += [f"{name}. {TTL} IN {rdtype} {value}" for value in values]

    def spoil(self, name: str, rdtype: str) -> None:
        """Change the records of `name` of one type after they were signed."""
        self._spoilt.append((name, rdtype))

    def lame(self, name: str) -> None:
        """Delegate `name` to a name server that is not there."""
        self.add(name, "NS", "nobody.test.")

    def __enter__(self) -> Self:
        """Sign, start both, and wait until what the resolver says is secure."""
        programs = [program(name) for name in ("named", "unbound", "dnssec-keygen", "dnssec-signzone")]
        named, unbound, self._keygen, self._signzone = programs
        self._directory.mkdir()
        for zone in self._zones:  # the root last: it has what the others' keys are
            self._write(zone)
        self._configure()
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop)
            self._start(named, "-g", "-c", str(self._directory / "named.conf"))
            self._start(unbound, "-d", "-c", str(self._directory / "unbound.conf"))
            wait_until(self._validates, "a resolver that validates")
            stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop()
        if isinstance(error, Exception):
            error.add_note(f"the name servers said:\n{self.log}")

    @property
    def log(self) -> str:
        """What both have to say."""
        return "\n".join(path.read_text(errors="backslashreplace") for path in self._directory.glob("*.log"))

    # zones

    def _file(self, zone: str) -> Path:
        return self._directory / f"{zone or 'root'}.zone"

    def _write(self, zone: str) -> None:
        origin = f"{zone}."
        start = f"{origin} {TTL} IN"
        lines = [f"{start} SOA ns.test. hostmaster.test. 1 3600 600 86400 {TTL}", f"{start} NS ns.test."]
        lines += self._lines[zone]
        if not zone:
            lines += [f"ns.test. {TTL} IN A {AUTHORITY}", f"nobody.test. {TTL} IN A {NOBODY}"]
            lines += [f"{child}. {TTL} IN NS ns.test." for child in self._zones if child]
            lines += [line for child in self._signed if child for line in self._proof(child)]
        self._file(zone).write_text("\n".join(lines) + "\n")
        if zone in self._signed:
            self._sign(zone)

    def _sign(self, zone: str) -> None:
        keys = self._directory / "keys"
        keys.mkdir(exist_ok=True)
        self._run(self._keygen, "-q", "-a", ALGORITHM, "-f", "KSK", "-K", str(keys), f"{zone}.")
        words = ["-S", "-z", "-q", "-O", "full", "-K", str(keys), "-d", str(self._directory), "-o", f"{zone}."]
        self._run(self._signzone, *words, "-f", str(self._file(zone)), str(self._file(zone)))
        lines = self._file(zone).read_text().splitlines()
        self._file(zone).write_text("\n".join(self._as_spoilt(line) for line in lines) + "\n")

    def _as_spoilt(self, line: str) -> str:
        words = line.split()
        if len(words) < 5 or (words[0].removesuffix("."), words[3]) not in self._spoilt:
            return line
        last = words[-1]
        spoilt = "203.0.113.1" if words[3] == "A" else last[:-2] + f"{int(last[-2:], 16) ^ 1:02X}"
        return line.removesuffix(last) + spoilt

    def _proof(self, child: str) -> Iterator[str]:
        for line in (self._directory / f"dsset-{child}.").read_text().splitlines():
            if child not in self._bogus:
                yield line
                continue
            words = line.split()  # name IN DS tag algorithm digest-type digest...
            yield " ".join([*words[:-1], words[-1][::-1]])

    # servers

    def _configure(self) -> None:
        zones = "\n".join(f'zone "{zone}." {{ type primary; file "{self._file(zone)}"; }};' for zone in self._zones)
        (self._directory / "named.conf").write_text(
            f"""options {{
    directory "{self._directory}"; pid-file none; session-keyfile "{self._directory}/session.key";
    listen-on {{ {AUTHORITY}; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no; notify no; minimal-responses no-auth-recursive;
}};
controls {{ }};
{zones}
"""
        )
        (self._directory / "root.hints").write_text(f". {TTL} IN NS ns.test.\nns.test. {TTL} IN A {AUTHORITY}\n")
        (anchor,) = (self._directory / "keys").glob("K.+*.key")
        (self._directory / "unbound.conf").write_text(
            f"""server:
    interface: {RESOLVER}
    port: 53
    directory: "{self._directory}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    do-ip6: no
    do-daemonize: no
    do-not-query-localhost: no
    root-hints: "{self._directory}/root.hints"
    trust-anchor-file: "{anchor}"
    module-config: "validator iterator"
    local-zone: "test." nodefault
    val-log-level: 2
remote-control:
    control-enable: no
"""
        )

    def _start(self, *command: str) -> None:
        log = (self._directory / f"{Path(command[0]).name}.log").open("wb")
        with log:
            self._running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def _stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)
        self._running = []

    def _validates(self) -> bool:
        for process in self._running:
            if process.poll() is not None:
                raise AssertionError(f"{process.args!r} ended with {process.returncode}:\n{self.log}")
        query = dns.message.make_query(".", "SOA", want_dnssec=True)
        try:
            response = dns.query.udp(query, RESOLVER, timeout=1)
        except (OSError, dns.exception.DNSException):
            return False
        return bool(response.flags & dns.flags.AD)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self._directory)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
