"""The key of a dropped file: an X-Relayd-Key line beside X-Sender and X-Receiver.

Pure.  It is of the envelope, and counts nowhere else: a message that is sent on may have such a field in its header, of
a stranger who would then say what is a repetition.
"""

from __future__ import annotations

from relayd.mail.key import MAX_KEY, is_key
from relayd.submission.header import Header
from relayd.submission.mailboxes import text_of
from relayd.submission.refusal import Refused, shown

NAME = "X-Relayd-Key"
_FIELD = NAME.lower()


def read_key(header: Header) -> str | None:
    """Return the text of the key, None if the file has none; raises Refused."""
    fields = [field for field in header.leading if field.name == _FIELD]
    if not fields:
        return None
    if len(fields) > 1:
        raise Refused(f"there are {len(fields)} {NAME} lines", "leave one")
    text = text_of(fields[0].value, NAME)
    if not is_key(text):
        raise Refused(f"{NAME} is not a key: {shown(text)}", f"write 1 to {MAX_KEY} printable characters of ASCII")
    return text
