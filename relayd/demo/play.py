"""`relayd demo`: the real daemon at its main job, on embedded parts.

A DNS server and SMTP servers on loopback, a spool in a temporary directory, four messages dropped as files.  The
daemon is a process of its own and knows nothing of being watched: what is shown is read from its log and from what
the servers received.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from pathlib import Path

from aiosmtpd.smtp import Envelope
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relayd.demo.dns import DnsServer
from relayd.demo.smtp import Accepting, Greylisting, Refusing, smtp_server

PATIENCE = 60.0  # seconds for everything
SENDER = "alice@sender.example"

CONFIG = """\
[relay]
hostname = "relay.sender.example"
spool = "spool"
port = {port}
allow_loopback = true
check_interval = "1s"

[retry]
first = "2s"

[dns]
nameservers = ["{nameserver}"]
"""


@dataclass
class Story:
    """One message: what should happen to it, and what did."""

    name: str
    recipient: str
    promise: str
    told: Callable[[Story], bool]
    statuses: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    received: list[Envelope] = field(default_factory=list)
    bounces: list[str] = field(default_factory=list)

    @property
    def message(self) -> bytes:
        """What the application drops."""
        return (
            f"From: Alice <{SENDER}>\nTo: {self.recipient}\nSubject: {self.name}\n\nThis message is {self.name}.\n"
        ).encode()


def stories() -> list[Story]:
    """Return the four stories, none of them begun."""
    return [
        Story(
            "prompt",
            "bob@prompt.example",
            "delivered at once",
            lambda s: s.statuses == ["delivered"] and len(s.received) == 1,
        ),
        Story(
            "greylisted",
            "bob@greylisting.example",
            "put off, then delivered on the retry",
            lambda s: s.statuses == ["deferred", "delivered"] and len(s.received) == 1,
        ),
        Story(
            "second-exchanger",
            "bob@half-dead.example",
            "first mail exchanger dead, delivered to the second",
            lambda s: (
                s.statuses == ["delivered"] and len(s.received) == 1 and s.hosts[0].startswith("mx2.half-dead.example")
            ),
        ),
        Story(
            "refused",
            "nobody@refusing.example",
            "refused, and the sender told by a bounce",
            lambda s: s.statuses == ["failed"] and not s.received and s.bounces == ["5.1.1"],
        ),
    ]


async def play(console: Console) -> bool:
    """Show the demo; return whether everything went as it should."""
    watched = stories()
    with tempfile.TemporaryDirectory(prefix="relayd-demo-") as directory:
        async with AsyncExitStack() as stack:
            stage = await stack.enter_async_context(_stage(Path(directory), watched, console))
            await stage.drop_all()
            await stage.until_over()
    console.print(_summary(watched))
    return all(story.told(story) for story in watched)


@asynccontextmanager
async def _stage(directory: Path, watched: list[Story], console: Console) -> AsyncIterator[_Stage]:
    stage = _Stage(directory, watched, console)
    async with AsyncExitStack() as stack:
        dns = await stack.enter_async_context(DnsServer())
        port = await stage.open_servers(stack)
        for domain, exchangers in EXCHANGERS.items():
            dns.mx(domain, *((10 * number, host) for number, (host, _) in enumerate(exchangers, 1)))
            for host, address in exchangers:
                dns.a(host, address)
        (directory / "config.toml").write_text(CONFIG.format(port=port, nameserver=dns.address))
        await stack.enter_async_context(stage.daemon())
        yield stage


#: Each domain's mail exchangers, in order, and their addresses.  Nobody listens on 127.0.0.4.
EXCHANGERS = {
    "prompt.example": [("mx.prompt.example", "127.0.0.2")],
    "greylisting.example": [("mx.greylisting.example", "127.0.0.3")],
    "half-dead.example": [("mx1.half-dead.example", "127.0.0.4"), ("mx2.half-dead.example", "127.0.0.5")],
    "refusing.example": [("mx.refusing.example", "127.0.0.6")],
    "sender.example": [("mx.sender.example", "127.0.0.7")],
}


class _Stage:
    """The servers, the daemon, and who watches them."""

    def __init__(self, directory: Path, watched: list[Story], console: Console) -> None:
        self._directory = directory
        self._stories = {story.name: story for story in watched}
        self._console = console
        self._began = time.monotonic()
        self._of_id: dict[str, Story] = {}
        self._changed = asyncio.Event()
        self._ready = asyncio.Event()

    async def open_servers(self, stack: AsyncExitStack) -> int:
        """Start the SMTP servers, all on one port, and return it."""
        manners = {
            "mx.prompt.example": Accepting(self._delivered),
            "mx.greylisting.example": Greylisting(self._delivered),
            "mx2.half-dead.example": Accepting(self._delivered),
            "mx.refusing.example": Refusing(self._delivered),
            "mx.sender.example": Accepting(self._bounced),
        }
        addresses = {host: address for exchangers in EXCHANGERS.values() for host, address in exchangers}
        port = 0
        for host, each in manners.items():
            port = await stack.enter_async_context(smtp_server(each, addresses[host], port, host))
        return port

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[None]:
        """Run `relayd` while the context lasts."""
        environment = {
            key: value for key, value in os.environ.items() if key not in ("JOURNAL_STREAM", "NOTIFY_SOCKET")
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relayd", "--config", str(self._directory / "config.toml")),
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        assert process.stderr is not None
        reading = asyncio.create_task(self._read_log(process.stderr))
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ready.wait()
            yield
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()
            await reading

    async def drop_all(self) -> None:
        """Do as an application does: write in tmp/, rename into new/."""
        spool = self._directory / "spool"
        self._began = time.monotonic()
        for story in self._stories.values():
            (spool / "tmp" / story.name).write_bytes(story.message)
            (spool / "tmp" / story.name).rename(spool / "new" / story.name)
            self._say(story, "dropped", f"spool/new/{story.name}, for {story.recipient}")

    async def until_over(self) -> None:
        """Wait until every story is told, or patience ends."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not all(story.told(story) for story in self._stories.values()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._console.print("[red]not everything happened in time[/red]")

    # what is seen

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            text = line.decode(errors="replace").strip()
            try:
                self._logged({key: value for key, _, value in (word.partition("=") for word in shlex.split(text))})
            except ValueError:
                self._console.print(Text(text, style="dim"))
            self._changed.set()
        self._ready.set()  # it ended: nobody needs to wait

    def _logged(self, words: dict[str, str]) -> None:
        event, queue_id = words.get("event", ""), words.get("q", "")
        if event == "started":
            self._ready.set()
        if event == "accepted" and words.get("file") in self._stories:
            story = self._of_id[queue_id] = self._stories[words["file"]]
            self._say(story, "accepted", f"queue id {queue_id}")
        elif queue_id in self._of_id and "status" in words:
            story = self._of_id[queue_id]
            story.statuses.append(words["status"])
            story.hosts.append(words.get("host", ""))
            what = f"{words.get('host', '')}: {words.get('reply', '')}"
            if words["status"] == "deferred":
                what += f" (next try in {words.get('next', '?')})"
            self._say(story, words["status"], what)

    def _delivered(self, envelope: Envelope) -> None:
        story = self._stories[str(message_from_bytes(_octets(envelope))["Subject"])]
        story.received.append(envelope)
        self._say(story, "received", f"by the exchanger of {envelope.rcpt_tos[0].rpartition('@')[2]}")

    def _bounced(self, envelope: Envelope) -> None:
        report = message_from_bytes(_octets(envelope), policy=policy.default)
        story = self._stories["refused"]
        for part in report.walk():
            if part.get_content_type() == "message/delivery-status":
                story.bounces += [str(block["Status"]) for block in part.iter_parts() if block["Status"]]
        self._say(story, "bounced", f"{envelope.rcpt_tos[0]} was told: {report['Subject']}")

    def _say(self, story: Story, event: str, what: str) -> None:
        line = Text(f"{time.monotonic() - self._began:6.2f} s  ", style="dim")
        line.append(f"{story.name:17}", style="bold")
        line.append(f"{event:10}", style=STYLES.get(event, ""))
        line.append(what)
        self._console.print(line)
        self._changed.set()


STYLES = {"delivered": "green", "deferred": "yellow", "failed": "red", "bounced": "magenta", "received": "cyan"}


def _octets(envelope: Envelope) -> bytes:
    content = envelope.content or b""
    return content if isinstance(content, bytes) else content.encode()


def _summary(watched: list[Story]) -> Table:
    table = Table(title="What should have happened, and did it?")
    for heading in ("message", "what should happen", "what the log says", ""):
        table.add_column(heading)
    for story in watched:
        log = ", ".join(story.statuses) + ("".join(f", bounce {status}" for status in story.bounces))
        table.add_row(story.name, story.promise, log, "[green]yes[/green]" if story.told(story) else "[red]NO[/red]")
    return table
