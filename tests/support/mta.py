"""Real receiving servers on loopback: Postfix's smtp-sink, Postfix and Exim, each with a directory of its own.

Each is a context manager that starts its processes and ends them, and offers `port`, `messages()` and `wait_for()`.
What arrived is given as it was on the wire, CRLF and un-stuffed, without what the server itself put on top.  The
system's own Postfix or Exim, its configuration and its queue are never touched.

Each is skipped, with a reason, where it is not installed or where the tests do not run as root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest
import trustme

from tests.support.process import PATIENCE, ROOT, wait_until

HOSTNAME = "mx.receiver.test"
POSTFIX_DAEMONS = Path("/usr/lib/postfix/sbin")


class Arrived(NamedTuple):
    """One message in the hands of the receiver; `sender` is "" for `<>`."""

    sender: str
    recipients: tuple[str, ...]
    raw: bytes


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """Return the path of a program of the system's; skips the test where there is none."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _need_root(what: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"{what} needs root to become its own users")


def _need_user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pytest.skip(f"there is no user {name}")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


def _maildir(directory: Path, own_fields: set[bytes]) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
    """Yield for each stored message the fields that the receiver put on top, and the rest."""
    for path in sorted((directory / "new").glob("*"), key=lambda path: path.stat().st_mtime_ns):
        rest = path.read_bytes()
        fields: dict[bytes, bytes] = {}
        while (match := re.match(rb"([!-9;-~]+):((?:.*\n)(?:[ \t].*\n)*)", rest)) and match[1].lower() in own_fields:
            if match[1].lower() in fields:
                break  # the sender's own
            fields[match[1].lower()] = match[2].strip()
            rest = rest[match.end() :]
        yield fields, rest.replace(b"\n", b"\r\n")


class Receiver(ABC):
    """What the three have in common: a directory, a process group, a port."""

    def __init__(self) -> None:
        self.port = free_port()

    def __enter__(self) -> Self:
        self.check()
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-mta-"))
        self.directory.chmod(0o755)
        try:
            self._output = (self.directory / "output").open("wb")
            self.process = subprocess.Popen(
                self.prepare(), stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, process_group=0
            )
            wait_until(self._up, "the receiver listens")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, Exception):
            error.add_note(f"the receiver said:\n{self.log}")
        self._end()

    @abstractmethod
    def check(self) -> None:
        """Skip the test if this receiver cannot run here."""

    @abstractmethod
    def prepare(self) -> list[str]:
        """Write what it needs below `self.directory`; return the command that runs it in the foreground."""

    @abstractmethod
    def messages(self) -> list[Arrived]:
        """Return what has arrived so far."""

    def wait_for(self, count: int, timeout: float = PATIENCE) -> list[Arrived]:
        """Wait until at least `count` messages have arrived, and return all."""
        wait_until(lambda: len(self.messages()) >= count, f"{count} messages arrive", timeout=timeout)
        return self.messages()

    @property
    def log(self) -> str:
        """What the server has to say."""
        files = [self.directory / "output", *self.directory.glob("log*")]
        return "\n".join(path.read_text(errors="backslashreplace") for path in files if path.is_file())

    def _up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the receiver ended with {self.process.returncode}:\n{self.log}")
        return _listens(self.port)

    def _end(self) -> None:
        if hasattr(self, "process"):
            self._stop()
            self.process.wait(PATIENCE)
        with contextlib.suppress(AttributeError):
            self._output.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
                return


class SmtpSink(Receiver):
    """Postfix's smtp-sink: ESMTP with PIPELINING, 8BITMIME, DSN; no TLS, no SIZE, no CHUNKING.

    It keeps each message in a file; `arguments` are more of its options (`-f`, `-r`, `-q`, `-w`: see smtp-sink(1)).
    """

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self.arguments = arguments

    def check(self) -> None:
        """It comes with Postfix."""
        program("smtp-sink")

    def prepare(self) -> list[str]:
        """As root it becomes nobody, and writes to a directory of nobody's."""
        self.dump = self.directory / "dump"
        self.dump.mkdir()
        options = ["-c", "-m", "1000", "-d", f"{self.dump}/", *self.arguments]
        if os.geteuid() == 0:
            shutil.chown(self.dump, "nobody")
            options += ["-u", "nobody"]
        return [program("smtp-sink"), *options, f"127.0.0.1:{self.port}", "1000"]

    def messages(self) -> list[Arrived]:
        """Return those that are whole: a file that smtp-sink has open is still being received."""
        paths = sorted(self.dump.iterdir())
        arrived = []
        for path in set(paths) - self._open_files():
            with contextlib.suppress(FileNotFoundError):  # a transaction that was broken off
                arrived.append((path.stat().st_mtime_ns, path.name, self._read(path)))
        return [message for _, _, message in sorted(arrived)]

    def _open_files(self) -> set[Path]:
        found = set()
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(link.readlink())
        return found

    def _read(self, path: Path) -> Arrived:
        content = path.read_bytes()
        end = re.search(rb"^Received: .*\n(?:\t.*\n)*", content, re.MULTILINE)
        assert end is not None, content
        head = content[: end.start()]
        paths = [path.decode() for path in re.findall(rb"^X-(?:Mail|Rcpt)-Args: *<(.*?)>", head, re.MULTILINE)]
        return Arrived(paths[0], tuple(paths[1:]), content[end.end() : -1].replace(b"\n", b"\r\n"))


class _TlsReceiver(Receiver):
    """One that stores to a Maildir, takes any recipient, and offers STARTTLS with a certificate of `ca`, PIPELINING
    and, if it is to, CHUNKING."""

    def __init__(self, *, ca: trustme.CA | None = None, chunking: bool = True) -> None:
        super().__init__()
        self.ca = ca or trustme.CA()
        self.chunking = chunking

    @property
    @abstractmethod
    def came_by_bdat(self) -> int:
        """How many messages, by its log."""

    def _write_certificate(self, owner: str) -> tuple[Path, Path]:
        certificate = self.ca.issue_cert(HOSTNAME, "localhost", "127.0.0.1")
        chain, key = self.directory / "chain.pem", self.directory / "key.pem"
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        key.write_bytes(certificate.private_key_pem.bytes())
        key.chmod(0o600)
        shutil.chown(key, owner)
        return chain, key


class Postfix(_TlsReceiver):
    """Postfix as receiving MTA; one copy for each recipient in a Maildir of nobody's."""

    def check(self) -> None:
        """Its master needs root."""
        program("postfix")
        _need_root("Postfix")
        _need_user("postfix")

    def prepare(self) -> list[str]:
        """Its own configuration, queue and data directory; nothing in a chroot."""
        self.store, etc, queue = self.directory / "store", self.directory / "etc", self.directory / "queue"
        etc.mkdir()
        for directory, owner in ((self.store, "nobody"), (queue, "root"), (self.directory / "data", "postfix")):
            directory.mkdir(mode=0o755)
            shutil.chown(directory, owner)
        chain, key = self._write_certificate("root")
        nobody = _need_user("nobody")
        (etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {queue}
data_directory = {self.directory}/data
daemon_directory = {POSTFIX_DAEMONS}
maillog_file = {self.directory}/log
maillog_file_prefixes = {self.directory}
myhostname = {HOSTNAME}
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
virtual_alias_maps =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_tls_security_level = may
smtpd_tls_cert_file = {chain}
smtpd_tls_key_file = {key}
message_size_limit = 102400000
virtual_mailbox_limit = 0
smtputf8_enable = yes
smtpd_discard_ehlo_keywords = {"" if self.chunking else "chunking"}
default_transport = virtual
virtual_transport = virtual
virtual_mailbox_base = {self.store}
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:{nobody.pw_uid}
virtual_gid_maps = static:{nobody.pw_gid}
virtual_minimum_uid = 1
""",
            encoding="utf-8",
        )
        (etc / "master.cf").write_text(_MASTER.replace("PORT", str(self.port)), encoding="utf-8")
        subprocess.run([program("postfix"), "-c", str(etc), "check"], check=True, capture_output=True, timeout=PATIENCE)
        return [str(POSTFIX_DAEMONS / "master"), "-c", str(etc), "-d"]

    def messages(self) -> list[Arrived]:
        """Return a message for each copy, without Postfix's four fields on top."""
        mine = {b"return-path", b"x-original-to", b"delivered-to", b"received"}
        return [
            Arrived(fields[b"return-path"].decode().strip("<>"), (fields[b"x-original-to"].decode(),), raw)
            for fields, raw in _maildir(self.store / "inbox", mine)
        ]

    @property
    def came_by_bdat(self) -> int:
        """Postfix counts the commands of a connection when it ends."""
        return sum(int(count) for count in re.findall(r"disconnect from .* bdat=(\d+)", self.log))


_MASTER = """127.0.0.1:PORT inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Exim(_TlsReceiver):
    """Exim 4 as receiving MTA; one copy for each recipient in a Maildir of Debian-exim's.

    Debian's Exim and Postfix exclude each other, so its binary is unpacked beside: the environment's RELAYD_EXIM,
    else build/exim (see .ci/run), else the system's.
    """

    USER = "Debian-exim"

    def check(self) -> None:
        """It was compiled to run as Debian-exim."""
        self.binary = self._binary()
        _need_root("Exim")
        _need_user(self.USER)

    @staticmethod
    def _binary() -> str:
        unpacked = ROOT / "build" / "exim" / "usr" / "sbin" / "exim4"
        if chosen := os.environ.get("RELAYD_EXIM"):
            return chosen
        return str(unpacked) if unpacked.exists() else program("exim4")

    def prepare(self) -> list[str]:
        """Its own configuration and spool; deliveries run as Debian-exim, so nothing is set-uid."""
        self.store, spool = self.directory / "store", self.directory / "spool"
        for directory in (self.store, spool):
            directory.mkdir()
            shutil.chown(directory, self.USER, self.USER)
        chain, key = self._write_certificate(self.USER)
        config = self.directory / "exim.conf"
        config.write_text(
            f"""primary_hostname = {HOSTNAME}
spool_directory = {spool}
log_file_path = {spool}/log-%s
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
host_lookup =
rfc1413_query_timeout = 0s
keep_environment =
deliver_drop_privilege = true
received_header_text =
received_headers_max = 1000
message_size_limit = 100M
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
smtputf8_advertise_hosts = *
chunking_advertise_hosts = {"*" if self.chunking else ""}
tls_advertise_hosts = *
tls_certificate = {chain}
tls_privatekey = {key}
acl_smtp_rcpt = accept
acl_smtp_data = accept
begin routers
everything:
  driver = accept
  transport = store
begin transports
store:
  driver = appendfile
  directory = {self.store}
  maildir_format
  user = {self.USER}
  return_path_add
  envelope_to_add
  message_prefix =
  message_suffix =
""",
            encoding="utf-8",
        )
        return [self.binary, "-C", str(config), "-oP", str(spool / "exim.pid"), "-bdf", "-q1h"]

    def messages(self) -> list[Arrived]:
        """Return a message for each copy, without the two fields that Exim's transport adds."""
        return [
            Arrived(fields[b"return-path"].decode().strip("<>"), (fields[b"envelope-to"].decode(),), raw)
            for fields, raw in _maildir(self.store, {b"return-path", b"envelope-to"})
        ]

    @property
    def came_by_bdat(self) -> int:
        """Exim writes a K into the line of each arrival."""
        return len(re.findall(r"<= .* K S=", self.log))

    @property
    def log(self) -> str:
        """Its main log and what it wrote on standard error."""
        return "\n".join(path.read_text(errors="backslashreplace") for path in (self.directory / "spool").glob("log-*"))
