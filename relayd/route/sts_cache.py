"""The policies of MTA-STS that are known, in core and on disk, so that no restart opens the way to a downgrade (RFC
8461 sections 3.3 and 10.2).

Invariants:

    What `put` has returned for survives a crash, or the disk's trouble has been told: a file is written beside, synced,
    renamed, and its directory synced.  One file for each domain, named after it, with its modification time as the day
    of its last use.
    At most `size` policies, of at most `octets` as they are on disk; what was not used for the longest goes first.
    A file that cannot be read is told of and passed over; a policy that has expired is removed.
    `get` costs O(1) and reads nothing; once a day, for each policy in use, it touches a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from relayd.mail.address import parse_domain
from relayd.mail.events import Degraded, Events, Restored, Warned
from relayd.route.sts import MAX_AGE, Invalid, StsPolicy, parse_policy

PART = "mta-sts"  # in events
SIZE = 10_000  # policies
OCTETS = 32 * 2**20
MAX_FILE = 64 * 2**10  # octets; MAX_MX names of the greatest length are 25 KiB
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A policy, with its size as it is on disk, the day of its last use, and its own chance (see sts.refresh_at)."""

    policy: StsPolicy
    octets: int
    used: datetime
    jitter: float


class StsCache:
    """See the module.  `load` comes first.  `jitter` draws a number from 0.0 to 1.0 for each policy; `read_only` leaves
    the disk as it is, which is the daemon's."""

    def __init__(
        self,
        directory: Path,
        *,
        jitter: Callable[[], float],
        events: Events,
        size: int = SIZE,
        octets: int = OCTETS,
        read_only: bool = False,
    ) -> None:
        self._directory = directory
        self._jitter = jitter
        self._events = events
        self._size = size
        self._most_octets = octets
        self._read_only = read_only
        self._octets = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # by last use, the oldest first
        self._writing = asyncio.Lock()
        self._degraded = False

    async def load(self, now: datetime) -> None:
        """Read what an earlier start left.  Never raises."""
        try:
            if not self._read_only:
                _make(self._directory)
            found, damaged = await asyncio.to_thread(_read_all, self._directory)
        except OSError as error:
            self._troubled(error)
            return
        for name, why in damaged:
            self._events(
                Warned(about="tls.mta_sts", detail=f"{self._directory / name} is damaged, and not used: {why}")
            )
        for used, octets, policy in sorted(found, key=lambda each: each[0]):
            self._keep(Kept(policy=policy, octets=octets, used=used, jitter=self._jitter()))
        self.sweep(now)

    def get(self, domain: str, now: datetime) -> Kept | None:
        """Return the policy of a domain that is in force, and note its use."""
        kept = self.known(domain, now)
        if kept is None:
            return None
        self._kept.move_to_end(domain)
        if not timedelta(0) <= now - kept.used < DAY:
            self._kept[domain] = kept = Kept(policy=kept.policy, octets=kept.octets, used=now, jitter=kept.jitter)
            self._touch(domain, now)
        return kept

    def known(self, domain: str, now: datetime) -> Kept | None:
        """Return the policy of a domain that is in force."""
        kept = self._kept.get(domain)
        return kept if kept is not None and now < kept.policy.expires else None

    async def put(self, policy: StsPolicy) -> None:
        """Keep a policy that was fetched just now.  Never raises: what cannot be written is in core at least."""
        content = written(policy)
        self._keep(Kept(policy=policy, octets=len(content), used=policy.fetched, jitter=self._jitter()))
        if self._read_only:
            return
        async with self._writing:
            try:
                await asyncio.to_thread(_write, self._directory, policy.domain, content, policy.fetched)
            except OSError as error:
                self._troubled(error)
                return
        if self._degraded:
            self._degraded = False
            self._events(Restored(part=PART))

    def sweep(self, now: datetime) -> None:
        """Remove what has expired."""
        for domain in [domain for domain, kept in self._kept.items() if kept.policy.expires <= now]:
            self._drop(domain)

    def __iter__(self) -> Iterator[Kept]:
        """All that is kept, as of now, what was used last first; unused by this."""
        return iter([*reversed(self._kept.values())])

    def __len__(self) -> int:
        return len(self._kept)

    def _keep(self, kept: Kept) -> None:
        before = self._kept.pop(kept.policy.domain, None)
        self._octets += kept.octets - (before.octets if before else 0)
        self._kept[kept.policy.domain] = kept
        while len(self._kept) > self._size or (self._octets > self._most_octets and len(self._kept) > 1):
            self._drop(next(iter(self._kept)))

    def _drop(self, domain: str) -> None:
        self._octets -= self._kept.pop(domain).octets
        if not self._read_only:
            with suppress(OSError):
                (self._directory / domain).unlink()

    def _touch(self, domain: str, now: datetime) -> None:
        if not self._read_only:
            with suppress(OSError):  # at worst it goes a little sooner than others
                os.utime(self._directory / domain, (now.timestamp(), now.timestamp()))

    def _troubled(self, error: OSError) -> None:
        if not self._degraded:
            self._degraded = True
            self._events(Degraded(part=PART, reason=f"policies are kept in core only: {error}"))


def written(policy: StsPolicy) -> bytes:
    """Return a policy as its file has it: for people, too."""
    content = {
        "domain": policy.domain,
        "id": policy.id,
        "fetched": policy.fetched.astimezone(UTC).isoformat(),
        "policy": policy.lines,
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def read(name: str, content: bytes) -> StsPolicy:
    """Return the policy that a file `name` holds; ValueError, in words, if it holds none."""
    if parse_domain(name) != name:
        raise ValueError("its name is not a domain")
    try:
        said: Any = json.loads(content)
        domain, version, lines = said["domain"], str(said["id"]), said["policy"]
        fetched = datetime.fromisoformat(said["fetched"]).astimezone(UTC)
        policy = parse_policy(name, version, "\n".join(lines).encode(), fetched)
        fetched + MAX_AGE  # or OverflowError
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not as relayd writes it ({error!r})") from None
    if domain != name:
        raise ValueError("it is of another domain")
    if isinstance(policy, Invalid):
        raise ValueError(policy.why)
    return policy


def _read_all(directory: Path) -> tuple[list[tuple[datetime, int, StsPolicy]], list[tuple[str, str]]]:
    """Return what the files hold, with the day of its last use and its size; and what is damaged, and how."""
    found, damaged = [], []
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue  # half written
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a file")
            used = datetime.fromtimestamp(status.st_mtime, UTC)
            with path.open("rb") as file:
                content = file.read(MAX_FILE)
            found.append((used, len(content), read(path.name, content)))
        except (OSError, ValueError, OverflowError) as error:
            damaged.append((path.name, str(error)))
    return found, damaged


def _make(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)  # whatever bits the spool's own hands on


def _write(directory: Path, name: str, content: bytes, at: datetime) -> None:
    beside = directory / ".new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.utime(beside, (at.timestamp(), at.timestamp()))
    beside.rename(directory / name)
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
