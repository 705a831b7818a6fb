"""Where the stories are played: servers on loopback that note what they see, and a spool of its own for each run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from aiosmtpd.smtp import Envelope

from tests.kills.nursery import Daemon, Nursery
from tests.kills.stories import DEAD, HOME, MAIL, OTHER, Letter
from tests.support.world import World

USER = 65534  # owner of the files that are another's


class Witness:
    """What the servers saw, by the name of the letter."""

    def __init__(self) -> None:
        self.ended: defaultdict[str, Counter[str]] = defaultdict(Counter)  # whose end of data came
        self.taken: defaultdict[str, list[Envelope]] = defaultdict(list)
        self.answers: list[tuple[tuple[str, ...], bool]] = []  # to ends of data, in order: for whom, whether taken
        self._seen: Counter[str] = Counter()

    def on_rcpt(self, envelope: Envelope, address: str) -> str:
        """Answer a recipient."""
        self._seen[address] += 1
        if address.startswith("no"):
            return "550 5.1.1 nobody of that name"
        if address.startswith("late0") and self._seen[address] == 1:
            return "451 4.3.0 not yet"
        return "250 2.1.5 ok"

    def on_data(self, envelope: Envelope, _: str) -> str:
        """Answer the end of a message."""
        name = envelope.rcpt_tos[0].split("@")[0].split(".")[1]
        self.ended[name].update(envelope.rcpt_tos)
        taken = not envelope.rcpt_tos[0].startswith("later") or self.ended[name].total() > 1
        self.answers.append((tuple(envelope.rcpt_tos), taken))
        if not taken:
            return "451 4.3.0 not yet"
        self.taken[name].append(envelope)
        return "250 2.0.0 taken"


class Ground:
    """See the module; a context manager.  One run at a time, and so for its nursery."""

    def __init__(self, directory: Path) -> None:
        self.witness = Witness()
        self.nursery = Nursery()
        self._directory = directory
        self._world = World(directory)
        self._stack = ExitStack()
        self._runs = 0

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(self.nursery)
        world = self._stack.enter_context(self._world)
        for domain in (MAIL, OTHER, HOME):
            exchanger = world.exchanger(f"mx.{domain}")
            exchanger.on_rcpt, exchanger.on_data = self.witness.on_rcpt, self.witness.on_data
            world.domain(domain, exchanger)
            self._alive = exchanger.address
        world.domain(DEAD, world.exchanger(f"mx.{DEAD}", alive=False))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def site(self, processes: int = 0) -> Iterator[Site]:
        """Yield a new spool, which is gone afterwards."""
        self._runs += 1
        directory = self._directory / f"run{self._runs}"
        directory.mkdir()
        try:
            yield Site(self, directory, processes)
        finally:
            shutil.rmtree(directory)

    def keep(self, site: Site) -> None:
        """Keep what a run left behind, for people."""
        kept = tempfile.mkdtemp(prefix="relayd-kill-")
        shutil.copytree(site.directory, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("control"))

    def configure(self, site: Site, name: str, **sections: Any) -> Path:
        """Write a configuration for a site; return where it is."""
        self._world.spool, self._world.config_path = site.spool, site.directory / name
        quick = {"first": "150ms", "factor": 1.5, "max": "500ms", "greylist": "150ms"}
        relay = {"check_interval": "100ms", "processes": site.processes} | sections.pop("relay", {})
        return self._world.configure(relay=relay, retry=quick, **sections)

    @property
    def revived(self) -> dict[str, Any]:
        """Settings by which mail to DEAD goes where somebody listens."""
        hosts = [f"{self._alive}:{self._world.port}"]
        return {"route": [{"name": "revived", "match": [DEAD], "hosts": hosts, "tls": "none"}]}


class Site:
    """One run's spool."""

    def __init__(self, ground: Ground, directory: Path, processes: int) -> None:
        self.ground = ground
        self.directory = directory
        self.spool = directory / "spool"
        self.processes = processes
        self.log = directory / "log"
        self.drained = directory / "drained.log"

    def configured(self) -> Path:
        """Write the daemon's configuration; return where it is."""
        return self.ground.configure(self, "config.toml")

    def daemon(self) -> Daemon:
        """Start the daemon."""
        return self.ground.nursery.daemon(self.configured(), log=self.log)

    def drain(self) -> Daemon:
        """Start `relayd --once`."""
        config = self.ground.configure(self, "drain.toml", relay={"processes": 0}, **self.ground.revived)
        return self.ground.nursery.daemon(config, "--once", log=self.drained)

    def drop(self, letter: Letter) -> None:
        """Drop a letter as a careful application does."""
        for name in [letter.name, *([f"{letter.name}-again"] if letter.twice else [])]:
            beside = self.spool / "tmp" / name
            beside.write_bytes(letter.octets)
            if not letter.own:
                os.chown(beside, USER, USER)
            beside.rename(self.spool / "new" / name)
