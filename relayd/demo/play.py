"""`relayd demo`: the real daemon at its main job, on embedded parts.

A DNS server and SMTP servers on loopback, a spool in a temporary directory, four messages dropped as files.  The
daemon is a process of its own and knows nothing of being watched: what is shown is read from its log and from what
the servers received.  A line of the log that belongs to no story is shown as it came.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from email import message_from_bytes, policy
from pathlib import Path

from aiosmtpd.smtp import Envelope
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relayd.demo.dns import DnsServer
from relayd.demo.smtp import Accepting, Greylisting, Refusing, smtp_server
from relayd.demo.story import EXCHANGERS, Story, stories

PATIENCE = 60.0  # seconds for everything
PORTS = 10  # tries to find a port that is free on all addresses

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

[tls]
dane = false
"""

STYLES = {"delivered": "green", "deferred": "yellow", "failed": "red", "bounced": "magenta", "received": "cyan"}
OURS = {"started", "accepted", "notified", "stopping", "stopped"}  # events that the daemon tells when all goes well


class _Broken(Exception):
    """The demo cannot go on."""


async def play(console: Console, watched: Sequence[Story] | None = None, *, patience: float = PATIENCE) -> bool:
    """Show the demo; return whether everything went as it should."""
    watched = stories() if watched is None else watched
    try:
        with tempfile.TemporaryDirectory(prefix="relayd-demo-") as directory:
            async with _stage(Path(directory), watched, console, patience) as stage:
                await stage.drop_all()
                await stage.until_over()
    except (_Broken, OSError) as trouble:
        console.print(Text(f"the demo cannot go on: {trouble}", style="red"))
        return False
    console.print(_summary(watched))
    return all(story.told(story) for story in watched)


@asynccontextmanager
async def _stage(directory: Path, watched: Sequence[Story], console: Console, patience: float) -> AsyncIterator[_Stage]:
    stage = _Stage(directory, watched, console, patience)
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


class _Stage:
    """The servers, the daemon, and who watches them."""

    def __init__(self, directory: Path, watched: Sequence[Story], console: Console, patience: float) -> None:
        self._directory = directory
        self._stories = {story.name: story for story in watched}
        self._console = console
        self._patience = patience
        self._began = time.monotonic()
        self._of_id: dict[str, Story] = {}
        self._notifications: set[str] = set()
        self._changed = asyncio.Event()
        self._ready = asyncio.Event()
        self._ended = False

    async def open_servers(self, stack: AsyncExitStack) -> int:
        """Start the SMTP servers, all on one port, and return it."""
        for last in (False,) * (PORTS - 1) + (True,):
            async with AsyncExitStack() as servers:
                try:
                    port = await self._open_servers(servers)
                except OSError as error:
                    if last or error.errno != errno.EADDRINUSE:
                        raise
                else:
                    stack.push_async_exit(servers.pop_all())
                    return port
        raise AssertionError("the last try returns or raises")

    async def _open_servers(self, stack: AsyncExitStack) -> int:
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
        """Run `relayd` while the context lasts; it has to start, and to end well."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relayd", "--config", str(self._directory / "config.toml")),
            stderr=asyncio.subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if key not in ("JOURNAL_STREAM", "NOTIFY_SOCKET")},
        )
        assert process.stderr is not None
        reading = asyncio.create_task(self._read_log(process.stderr))
        try:
            await self._until_ready()
            yield
        finally:
            code = await self._end(process)
            await reading
        if code != 0:
            raise _Broken(f"the daemon ended with exit code {code}")

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._ready.wait()
        except TimeoutError:
            raise _Broken("the daemon does not start") from None
        if self._ended:
            raise _Broken("the daemon did not start")

    async def _end(self, process: asyncio.subprocess.Process) -> int:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                process.send_signal(number)
            try:
                async with asyncio.timeout(self._patience):
                    return await process.wait()
            except TimeoutError:
                continue
        return await process.wait()

    async def drop_all(self) -> None:
        """Do as an application does: write in tmp/, rename into new/."""
        spool = self._directory / "spool"
        self._began = time.monotonic()
        for story in self._stories.values():
            (spool / "tmp" / story.name).write_bytes(story.message)
            (spool / "tmp" / story.name).rename(spool / "new" / story.name)
            self._say(story, "dropped", f"spool/new/{story.name}, for {story.recipient}")

    async def until_over(self) -> None:
        """Wait until every story is told, the daemon ends, or patience does."""
        try:
            async with asyncio.timeout(self._patience):
                while not (self._ended or all(story.told(story) for story in self._stories.values())):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._console.print("[red]not everything happened in time[/red]")

    # what is seen

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            text = line.decode(errors="replace").strip()
            if not self._logged(_words(text)):
                self._console.print(Text(f"relayd: {text}", style="yellow"), soft_wrap=True)
            self._changed.set()
        self._ended = True
        self._ready.set()  # nobody needs to wait
        self._changed.set()

    def _logged(self, words: dict[str, str]) -> bool:
        """Take note of a line; return whether it was expected."""
        event, queue_id = words.get("event", ""), words.get("q", "")
        if event == "started":
            self._ready.set()
        elif event == "accepted" and words.get("file") in self._stories:
            story = self._of_id[queue_id] = self._stories[words["file"]]
            self._say(story, "accepted", f"queue id {queue_id}")
        elif event == "notified":
            self._notifications.add(words.get("by", ""))
        elif queue_id in self._of_id and "status" in words:
            self._attempted(self._of_id[queue_id], words)
            return True
        # That it runs as root is no matter in a spool of its own.
        return event in OURS or queue_id in self._notifications or words.get("about") == "user"

    def _attempted(self, story: Story, words: dict[str, str]) -> None:
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
        """Print a line of the timeline: on a terminal what is too long goes on below itself."""
        at = f"{time.monotonic() - self._began:6.2f} s"
        style = STYLES.get(event, "")
        if self._console.is_terminal:
            line = Table.grid(padding=(0, 1))
            for width in (8, 16, 9):
                line.add_column(width=width, no_wrap=True)
            line.add_column(overflow="fold")
            line.add_row(Text(at, "dim"), Text(story.name, "bold"), Text(event, style), Text(what))
            self._console.print(line)
        else:
            self._console.print(Text(f"{at} {story.name:16} {event:9} {what}"), soft_wrap=True)
        self._changed.set()


def _words(line: str) -> dict[str, str]:
    """Return the pairs of a line of the log, {} for what is none."""
    try:
        return {key: value for key, equals, value in (word.partition("=") for word in shlex.split(line)) if equals}
    except ValueError:
        return {}


def _octets(envelope: Envelope) -> bytes:
    content = envelope.content or b""
    return content if isinstance(content, bytes) else content.encode()


def _summary(watched: Sequence[Story]) -> Table:
    table = Table(title="What should have happened, and did it?")
    for heading in ("message", "what should happen", "what the log says", ""):
        table.add_column(heading)
    for story in watched:
        log = ", ".join(story.statuses) + ("".join(f", bounce {status}" for status in story.bounces))
        table.add_row(story.name, story.promise, log, "[green]yes[/green]" if story.told(story) else "[red]NO[/red]")
    return table
