"""The header fields that relayd adds at the top of a message (RFC 5321 sections 4.4 and 6.4, RFC 6409 section 8).

Pure, and the same for the same id, envelope and host name: on every attempt, and after a recovery.  Nothing that is
there is added again, and who else got the message is not told: `for` is left out of Received.
"""

from __future__ import annotations

from datetime import datetime
from email.utils import format_datetime

from relayd.mail.address import Address
from relayd.submission.header import Header


def generated_fields(
    header: Header, *, queue_id: str, arrived: datetime, hostname: str, reverse_path: Address | None
) -> bytes:
    """Return Received, and Date, From and Message-ID where the message lacks them, with CRLF."""
    date = format_datetime(arrived)
    present = {field.name for field in header.fields}
    lines = [f"Received: by {hostname} (relayd) id {queue_id};\r\n\t{date}\r\n"]
    if "date" not in present:
        lines.append(f"Date: {date}\r\n")
    if "from" not in present:
        lines.append(f"From: {reverse_path or f'MAILER-DAEMON@{hostname}'}\r\n")
    if "message-id" not in present:
        lines.append(f"Message-ID: <{queue_id}@{hostname}>\r\n")
    return "".join(lines).encode()
