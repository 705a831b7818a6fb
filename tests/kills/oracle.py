"""Whether anything was lost: FAULTS.md's "nothing lost", for the letters of one run whose queue was drained since.

Every recipient is in exactly one of delivered and bounced; what was delivered says what was dropped; its sender was
told once; whatever came twice is marked; nothing of it is left in the spool, and the history agrees.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from aiosmtpd.smtp import Envelope

from relayd.spool.rows import compacted
from tests.kills.ground import Site, Witness
from tests.kills.stories import HOME, Letter, Story
from tests.support.world import octets

IGNORED = re.compile(
    r"lock|queue\.db|tlsrpt\.db(-journal)?|queue/notes\.[0-9A-Z]{20}(\.\d+)?"
)  # what a spool at rest has, but for bodies


@dataclass(kw_only=True)
class Verdict:
    """What was found: `faults` in words, and the recipients that came twice, were marked, were marked in vain."""

    faults: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)  # marked, though the end of data was not seen before the drain


def judge(site: Site, story: Story, ended: Counter[str], kept: Iterable[str] = ()) -> Verdict:
    """Judge a run.  `ended`: whose end of data came before the drain; `kept`: files that may be in the spool."""
    log = site.log.read_text() + site.drained.read_text()
    marked = set(re.findall(r"event=possible-duplicate \S+ r=(\S+)", log)) | _marked_in_history(site.spool)
    left = {_delivery(address) for address in ended}
    verdict = Verdict(marked=sorted(marked), early=sorted(each for each in marked if _delivery(each) not in left))
    for letter in story.letters:
        verdict.faults += _misdelivered(letter, site.ground.witness, marked, verdict)
        verdict.faults += _mistold(letter, site.ground.witness, marked, verdict)
    verdict.faults += _left(site.spool, story, set(kept))
    return verdict


def _marked_in_history(spool: Path) -> set[str]:
    """Return who was marked by whichever start, also by one whose log a power cut took."""
    with _queue(spool) as database:
        rows = database.execute("SELECT recipients FROM history").fetchall()
    return {str(each.address) for (row,) in rows for each in compacted(row) if each.possible_duplicate}


@contextmanager
def _queue(spool: Path) -> Iterator[sqlite3.Connection]:
    """Read the queue.  Nobody has it open, and it has no log: reading must not make one."""
    with closing(sqlite3.connect(f"file:{spool / 'queue.db'}?immutable=1", uri=True)) as database:
        yield database


def _delivery(address: str) -> str:
    """Return what the recipients of one delivery have in common: marks are for all of them."""
    return address.partition(".")[2]


def _misdelivered(letter: Letter, witness: Witness, marked: set[str], verdict: Verdict) -> Iterator[str]:
    taken = [each for each in witness.taken[letter.name] if not _to_sender(each)]
    counted = Counter(address for envelope in taken for address in envelope.rcpt_tos)
    for address in letter.recipients:
        count = counted.pop(address, 0)
        if address in letter.refused:
            if count:
                yield f"{address} was delivered, though it was refused"
        elif count == 0:
            yield f"{address} is lost"
        elif count > 1:
            verdict.twice.append(address)
            if address not in marked:
                yield f"{address} came {count} times and is not marked"
    yield from (f"{address} was never asked for" for address in counted)
    for envelope in taken:
        if octets(envelope).partition(b"\r\n\r\n")[2] != letter.body.replace("\n", "\r\n").encode():
            yield f"{letter.name} does not say what was dropped"


def _to_sender(envelope: Envelope) -> bool:
    return envelope.rcpt_tos[0].endswith(f"@{HOME}")


def _mistold(letter: Letter, witness: Witness, marked: set[str], verdict: Verdict) -> Iterator[str]:
    """Judge what the sender was told: of each recipient once, by one notification, which may come twice if marked."""
    told: dict[str, Message] = {}
    copies: Counter[str] = Counter()
    for envelope in witness.taken[letter.name]:
        if _to_sender(envelope):
            message = message_from_bytes(octets(envelope))
            told[str(message["Message-ID"])] = message
            copies[str(message["Message-ID"])] += 1
            if envelope.mail_from not in ("", "<>", None):
                yield f"a notification of {letter.name} has a sender"
    if any(count > 1 for count in copies.values()):
        verdict.twice.append(letter.sender)
        if letter.sender not in marked:
            yield f"a notification of {letter.name} came twice and is not marked"
    found = Counter(each for message in told.values() for each in _told_of(message))
    wanted = Counter((address, _action(letter, address)) for address in letter.recipients)
    del wanted["", ""]
    wanted = Counter({key: count for key, count in wanted.items() if key[1]})
    if found != wanted:
        yield f"the sender of {letter.name} was told {dict(found)}, not {dict(wanted)}"


def _action(letter: Letter, address: str) -> str:
    """Return what the sender has to be told of a recipient, "" for nothing."""
    if not letter.sender:
        return ""
    if address in letter.refused:
        return "failed"
    return "relayed" if "SUCCESS" in letter.notify else ""


def _told_of(message: Message) -> Iterator[tuple[str, str]]:
    """Yield the recipients of a notification with what is said of them."""
    for part in message.walk():
        if part.get_content_type() == "message/delivery-status":
            blocks = part.get_payload()
            assert isinstance(blocks, list)
            for block in blocks[1:]:
                assert isinstance(block, Message)
                yield str(block["Final-Recipient"]).partition(";")[2].strip(), str(block["Action"])


def _left(spool: Path, story: Story, kept: set[str]) -> Iterator[str]:
    """Judge what is in the spool."""
    there = [path for path in spool.rglob("*") if not path.is_dir()]
    with _queue(spool) as database:
        for table in ("messages", "recipients", "notices"):
            (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
            if count:
                yield f"{count} rows in {table}"
        rows = database.execute("SELECT id, sender, recipients, body FROM history").fetchall()
    bodies = {identity for identity, _, _, body in rows if body == 2}  # of <>, kept for a time
    yield from _history(story, [(sender, recipients) for _, sender, recipients, _ in rows])
    yield from (f"the body of {row[0]} counts as there" for row in rows if row[3] == 1)
    for path in there:
        name = str(path.relative_to(spool))
        if not (IGNORED.fullmatch(name) or path.name in bodies or name in kept):
            yield f"{name} is left"


def _history(story: Story, rows: list[tuple[str, str]]) -> Iterator[str]:
    found: Counter[tuple[str, str]] = Counter()
    for _, recipients in rows:
        found.update((str(each.address), each.status.value) for each in compacted(recipients))
    for letter in story.letters:
        for address in letter.recipients:
            wanted = "failed" if address in letter.refused else "delivered"
            there = {status: count for (who, status), count in found.items() if who == address}
            if there != {wanted: 1}:
                yield f"the history says of {address}: {there}"
