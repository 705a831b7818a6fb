"""How the command line shows a message: for programs, with stable keys, and for people, in lines.

Pure.  What a server or an application wrote is printed with its control characters replaced, so that no reply can
move the cursor of the terminal it is read on.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from relayd.mail.recipient import Recipient
from relayd.spool.queue import HistoryRow, Listed


def summary(found: Listed | HistoryRow) -> dict[str, Any]:
    """Return a message as JSON has it: the same keys whether it waits or is finished; times in ISO 8601, UTC."""
    if isinstance(found, HistoryRow):
        return {
            "id": found.id,
            "arrived": iso_time(found.arrived),
            "sender": found.sender,
            "size": found.size,
            "held": False,
            "hold_reason": "",
            "in_flight": False,
            "deadline": None,
            "deadline_mode": None,
            "finished": iso_time(found.finished),
            "recipients": [_recipient(recipient) for recipient in found.recipients],
        }
    message = found.message
    deadline = message.envelope.deadline
    return {
        "id": message.id,
        "arrived": iso_time(message.arrived),
        "sender": str(message.envelope.reverse_path or ""),
        "size": message.body.wire_size,
        "held": message.held,
        "hold_reason": found.hold_reason,
        "in_flight": found.in_flight,
        "deadline": iso_time(deadline.at) if deadline else None,
        "deadline_mode": deadline.mode.value if deadline else None,
        "finished": None,
        "recipients": [_recipient(recipient) for recipient in message.envelope.recipients],
    }


def _recipient(recipient: Recipient) -> dict[str, Any]:
    return {
        "address": str(recipient.address),
        "status": recipient.status.value,
        "attempts": recipient.attempts,
        "due": iso_time(recipient.due) if recipient.due and not recipient.status.final else None,
        "reply": recipient.reply,
        "dsn": recipient.dsn,
        "host": recipient.peer,
        "attempted": iso_time(recipient.attempted) if recipient.attempted else None,
        "possible_duplicate": recipient.possible_duplicate,
    }


def lines(listed: Listed) -> Iterator[str]:
    """Yield a message of the queue as a list has it: a line, and one below it for each recipient."""
    shown = summary(listed)
    flags = "".join(f"  ({flag})" for flag in _flags(shown))
    yield printable(f"{shown['id']}  {shown['arrived'][:19]}Z {shown['size']:>9}  {shown['sender'] or '<>'}{flags}")
    for recipient in shown["recipients"]:
        reply = f": {recipient['reply']}" if recipient["reply"] else ""
        yield printable(f"  {recipient['address']}  {_standing(recipient, held=shown['held'])}{reply}")


def standing(recipient: Recipient, *, held: bool) -> str:
    """Return how a recipient stands, in words."""
    return _standing(_recipient(recipient), held=held)


def details(found: Listed | HistoryRow) -> Iterator[str]:
    """Yield all that is known of a message, a fact to a line."""
    shown = summary(found)
    recipients = shown.pop("recipients")
    shown["sender"] = shown["sender"] or "<>"
    yield from _facts(shown, "")
    for recipient in recipients:
        yield "recipient:"
        yield from _facts(recipient, "  ")


def printable(text: str) -> str:
    """Return `text` with a question mark for each character that is not printable."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def _facts(facts: dict[str, Any], indent: str) -> Iterator[str]:
    for key, value in facts.items():
        if value in (None, ""):
            continue
        words = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        yield printable(f"{indent}{key.replace('_', ' ') + ':':20}{words}")


def _flags(shown: dict[str, Any]) -> Iterator[str]:
    if shown["held"]:
        yield shown["hold_reason"] or "held"
    if shown["in_flight"]:
        yield "in flight"
    if shown["deadline"]:
        yield f"deadline {shown['deadline'][:19]}Z"


def _standing(recipient: dict[str, Any], *, held: bool) -> str:
    words = [recipient["status"]]
    if recipient["attempts"]:
        words.append(f"{recipient['attempts']} attempt{'' if recipient['attempts'] == 1 else 's'}")
    if recipient["due"] and not held:
        words.append(f"due {recipient['due'][:19]}Z")
    if recipient["possible_duplicate"]:
        words.append("possible duplicate")
    return ", ".join(words)


def iso_time(time: datetime) -> str:
    """Return a time as JSON has it: ISO 8601, UTC, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def short_time(time: datetime) -> str:
    """Return a time as people read it, to the second."""
    return f"{iso_time(time)[:19]}Z"
