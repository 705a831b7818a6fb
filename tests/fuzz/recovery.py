"""The reader of bodies when queue.db is lost: a message, or a sentence why not, whatever is in the file.

It is the message that was accepted, so that nothing leaves otherwise than before, unless it is a notification of ours;
and nobody's file is taken for one, who could not know the id that it would get.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from relayd.attempt.notification import recognised
from relayd.cli.recover import _examine
from relayd.config import load
from relayd.mail.message import Message
from relayd.spool.recovery import Examine
from tests.fuzz import drop_files
from tests.fuzz.choices import Choices
from tests.submission.support import HOSTNAME, ID, examined

REPORT = b"Content-Type: multipart/report; report-type=delivery-status;\r\n"
WORDS = (
    *drop_files.WORDS,
    *(REPORT, b"Message-ID: <%b@%b>\r\n" % (ID.encode(), HOSTNAME.encode()), b"Message-ID: <%b@" % ID.encode()[:10]),
    *(b"X-Sender: <>\r\nX-Receiver: <ann@example.org> NOTIFY=NEVER\r\n", ID.encode(), b"\r\nMessage-ID: <"),
)
_DIRECTORY = tempfile.TemporaryDirectory(prefix="relayd-fuzz-")
_BODY = Path(_DIRECTORY.name, ID)


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the loop of all calls."""
    return asyncio.new_event_loop()


@cache
def examine() -> Examine:
    """Return what `relayd recover` reads a body with, configured as the examiner in tests/submission."""
    path = Path(_DIRECTORY.name, "config.toml")
    path.write_text(f'[relay]\nhostname = "{HOSTNAME}"\norigin = "origin.example"\n')
    return _examine(load(path))


async def _found(examine: Examine, body: Path) -> Message | str:
    return await examine(body, ID)


def one(octets: bytes) -> None:
    """See the module."""
    check(Choices(octets).mixed(WORDS, 60))


def check(octets: bytes) -> None:
    """Claim it of one body."""
    _BODY.write_bytes(octets)
    found = loop().run_until_complete(_found(examine(), _BODY))
    assert _BODY.read_bytes() == octets
    try:
        accepted: Message | str = examined(octets)
    except Exception as refusal:
        accepted = str(refusal)
    if isinstance(accepted, str) or isinstance(found, str):
        assert found == accepted
        return
    if not found.notification:
        assert found == accepted
        return
    assert found == recognised(accepted, octets)
    assert accepted.envelope.reverse_path is None
    assert ID.encode() in octets
    assert replace(found, body=accepted.body, notification=False) == accepted
