"""A small internet on loopback for the daemon: a DNS server, mail exchangers on addresses of their own, a spool.

The DNS server plays a resolver that validates, and nothing but the root is signed: DANE is on, and finds nothing.

The servers run on an event loop in a thread, so that a test may wait for the daemon's process as it likes.  All
exchangers listen on one port, because `relay.port` is one; they differ by address, as on the internet.
"""

from __future__ import annotations

import asyncio
import email
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from email.message import Message
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from relayd.demo.smtp import smtp_server
from tests.support.dns import FaultyDns
from tests.support.process import ROOT, Daemon, wait_until, write_config

T = TypeVar("T")

with_and_without_workers = pytest.mark.parametrize("world", [0, 1], indirect=True, ids=["in-process", "workers"])

Answer = Callable[[Envelope, str], Awaitable[str] | str]


class Exchanger:
    """A mail exchanger that keeps what it takes.

    `on_rcpt` and `on_data` may be replaced to answer otherwise: they get the envelope and the recipient, or "".
    """

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.on_rcpt: Answer = lambda envelope, address: "250 2.1.5 ok"
        self.on_data: Answer = lambda envelope, address: "250 2.0.0 taken"
        self.taken: list[Envelope] = []
        self.sessions = 0
        self.clients: set[str] = set()  # how they called themselves

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.sessions += 1
        self.clients.add(hostname)
        return responses

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = await _awaited(self.on_rcpt(envelope, address))
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = await _awaited(self.on_data(envelope, ""))
        if answer.startswith("2"):
            self.taken.append(envelope)
        return answer

    @property
    def messages(self) -> list[Message]:
        """What was taken, parsed."""
        return [email.message_from_bytes(octets(envelope)) for envelope in self.taken]


async def _awaited(answer: Awaitable[str] | str) -> str:
    return answer if isinstance(answer, str) else await answer


def octets(envelope: Envelope) -> bytes:
    """Return the message of an envelope."""
    assert isinstance(envelope.content, bytes)
    return envelope.content


class World:
    """See the module.  Use it as a context manager.  `processes` is `relay.processes`, unless a test says otherwise."""

    def __init__(self, directory: Path, *, processes: int = 0, dns: FaultyDns | None = None) -> None:
        self.directory = directory
        self.dns = dns or FaultyDns()
        self.spool = directory / "spool"
        self.config_path = directory / "config.toml"
        self.port = 0
        self.processes = processes
        self.http_port = 0  # of `[http]` on 127.0.0.1, if a test sets it
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()
        self.exchangers: list[Exchanger] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self.dns.validates()
        self.run(self._stack.enter_async_context(self.dns))
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stack.aclose())
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Awaitable[T]) -> T:
        """Await something on the servers' loop."""

        async def awaited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(30)

    # the internet

    def exchanger(self, name: str, *, alive: bool = True) -> Exchanger:
        """Add a mail exchanger `name`; one that is not alive refuses connections."""
        number = len(self.exchangers) + 1
        exchanger = Exchanger(name, f"127.0.{1 + number // 250}.{1 + number % 250}")
        self.exchangers.append(exchanger)
        if alive:
            self.revive(exchanger)
        self.run(_called(self.dns.a, name, exchanger.address))
        return exchanger

    def revive(self, exchanger: Exchanger) -> None:
        """Let an exchanger listen."""
        serving = smtp_server(exchanger, exchanger.address, self.port, exchanger.name)
        self.port = self.run(self._stack.enter_async_context(serving))

    def domain(self, name: str, *exchangers: Exchanger) -> None:
        """Let a domain's mail be taken by exchangers, in order."""
        self.run(_called(self.dns.mx, name, *((10 * n, each.name) for n, each in enumerate(exchangers, 1))))

    # relayd

    def configure(self, **sections: Any) -> Path:
        """Write the configuration: quick settings, changed by `sections`."""
        base: dict[str, dict[str, Any]] = {
            "relay": {
                "hostname": "relay.test",
                "spool": str(self.spool),
                "port": self.port or 1,
                "allow_loopback": True,
                "check_interval": "200ms",
                "settle_time": "100ms",
                "processes": self.processes,
            },
            "retry": {"first": "300ms", "max": "2s"},
            "dns": {"nameservers": [self.dns.address]},
        }
        if self.http_port:
            base["http"] = {"listen": f"127.0.0.1:{self.http_port}"}
        tables: dict[str, Any] = {**base, **{k: v for k, v in sections.items() if k not in base}}
        for name, table in base.items():
            tables[name] = {**table, **sections.get(name, {})}
        return write_config(self.config_path, tables)

    def daemon(self, *arguments: str, **kwargs: Any) -> Daemon:
        """Return the daemon, not started yet."""
        if not self.config_path.exists():
            self.configure()
        return Daemon(self.config_path, *arguments, **kwargs)

    @contextmanager
    def relaying(self, *arguments: str, **kwargs: Any) -> Iterator[Daemon]:
        """Run the daemon, ready, while the context lasts; it has to end well."""
        with self.daemon(*arguments, **kwargs) as daemon:
            yield daemon.ready()
            daemon.terminate()
            assert daemon.wait() == 0, daemon.log

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `relayd --config FILE ARGUMENTS`."""
        return subprocess.run(
            [sys.executable, "-m", "relayd", "--config", str(self.config_path), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd="/",
        )

    def queue(self) -> list[dict[str, Any]]:
        """Return what `relayd queue list --json` says."""
        listed = self.command("queue", "list", "--json")
        assert listed.returncode == 0, listed.stderr
        messages: list[dict[str, Any]] = json.loads(listed.stdout)
        return messages

    def drop(self, content: bytes, name: str | None = None) -> Path:
        """Drop a file as a careful application does; return where it went."""
        name = name or f"{uuid.uuid4()}.eml"
        for each in ("tmp", "new"):
            (self.spool / each).mkdir(parents=True, exist_ok=True)
        (self.spool / "tmp" / name).write_bytes(content)
        return (self.spool / "tmp" / name).rename(self.spool / "new" / name)

    def send(self, *recipients: str, sender: str = "ann@sender.test", subject: str = "hello", **fields: str) -> Path:
        """Drop a small message with an envelope of its own."""
        return self.drop(a_message(*recipients, sender=sender, subject=subject, **fields))


def a_message(*recipients: str, sender: str = "ann@sender.test", subject: str = "hello", **fields: str) -> bytes:
    """Return a message file with X-Sender and X-Receiver lines; a recipient may have parameters after a blank."""
    lines = [f"X-Sender: <{sender}>"]
    for recipient in recipients:
        address, _, parameters = recipient.partition(" ")
        lines.append(f"X-Receiver: <{address}> {parameters}".rstrip())
    lines += [f"From: <{sender or 'daemon@sender.test'}>", f"To: {recipients[0].split()[0]}", f"Subject: {subject}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\n".join([*lines, "", "Hello.", ""]).encode()


async def _called(function: Callable[..., None], *arguments: Any) -> None:
    function(*arguments)


__all__ = ["Exchanger", "World", "a_message", "octets", "wait_until", "with_and_without_workers"]
