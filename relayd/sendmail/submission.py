"""From a message and its envelope to a dropped file: one pass, and a look at it with the daemon's eyes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from relayd.mail.message import new_id
from relayd.sendmail.content import Content, read_content
from relayd.sendmail.drop import DropFile
from relayd.sendmail.envelope import Lines
from relayd.sendmail.failure import EX_DATAERR, Failure
from relayd.sendmail.qualifying import qualified
from relayd.sendmail.settings import SendmailSettings
from relayd.submission.header import MAX_WINDOW
from relayd.submission.refusal import Refused


def drop(settings: SendmailSettings, chunks: Iterator[bytes], lines_for: Callable[[Content], Lines]) -> str:
    """Drop a message; return the name of its file.  `lines_for` makes the envelope of a message that begins so.

    Raises:
        Failure: nothing was dropped.
    """
    try:
        with DropFile(settings.spool, settings.max_message_size) as file:
            content = _beginning(chunks)
            file.write(lines_for(content).before(content))
            file.write(qualified(content.fields, settings.domains.origin))
            file.write(content.gap + content.rest)
            for chunk in chunks:
                file.write(chunk)
            descriptor = file.read_again()
            settings.examiner.examine(lambda size: os.read(descriptor, size), new_id(datetime.now(UTC)))
            file.commit()
            return file.name
    except Refused as refusal:
        raise Failure(EX_DATAERR, refusal.problem) from None


def _beginning(chunks: Iterator[bytes]) -> Content:
    head, wanted, whole = b"", 1, False
    while (content := read_content(head, whole=whole)) is None:
        if len(head) > MAX_WINDOW:
            raise Refused(f"the header is larger than {MAX_WINDOW} octets", "make it smaller")
        wanted = max(2 * len(head), 1)  # so that reading it again and again costs no more than twice as much
        pieces = [head]
        while not whole and sum(map(len, pieces)) < wanted:
            piece = next(chunks, None)
            whole = piece is None
            pieces.append(piece or b"")
        head = b"".join(pieces)
    return content
