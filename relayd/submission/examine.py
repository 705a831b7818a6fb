"""From the octets of a file to a message: header, envelope, generated fields, facts.

The octets come from `read`, each exactly once; a small file is read in one go, a large one in chunks, and memory
stays within a chunk and the header.  Offsets and sizes count what was read, never what `stat` said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from relayd.mail.key import SubmissionKey
from relayd.mail.message import Body, Message, arrival_of
from relayd.submission.envelope import Domains, read_envelope
from relayd.submission.facts import MAX_LINE, Facts
from relayd.submission.header import MAX_WINDOW, Header, read_header
from relayd.submission.key import read_key
from relayd.submission.prepare import generated_fields
from relayd.submission.refusal import Refused

CHUNK = 1024 * 1024  # octets read at once
MAX_RECAST = 64 * 1024  # octets of a header that is written anew: it is kept with the message's envelope

Read: TypeAlias = Callable[[int], bytes]  # at most so many octets, fewer only at the end of the file


class Examiner:
    """Turns files into messages.  Pure but for what `read` does."""

    def __init__(self, *, hostname: str, domains: Domains, max_message_size: int) -> None:
        self._hostname = hostname
        self._domains = domains
        self._max_message_size = max_message_size

    def examine(self, read: Read, queue_id: str, *, expected: int = CHUNK, owner: int | None = None) -> Message:
        """Return the message that is read; `expected` is its likely size in octets, `owner` whose key it has, if that
        is known.

        Raises:
            Refused: it is no message.
            ValueError: `queue_id` is none.
        """
        arrived = arrival_of(queue_id)
        head, whole = _filled(read, min(expected + 1, CHUNK))
        if not head:
            raise Refused("the file is empty", "write the message into it, or remove it")
        header = read_header(head, whole=whole)
        while header is None:
            more, whole = _filled(read, min(max(len(head), CHUNK), MAX_WINDOW - len(head)))
            head += more
            header = read_header(head, whole=whole)
        envelope = read_envelope(header, self._domains, arrived)
        key = read_key(header)
        prefix = generated_fields(
            header,
            queue_id=queue_id,
            arrived=arrived,
            hostname=self._hostname,
            reverse_path=envelope.reverse_path,
        )
        body = self._body(prefix, header, head, read, whole=whole)
        return Message(
            id=queue_id,
            envelope=envelope,
            body=body,
            arrived=arrived,
            key=SubmissionKey(owner, key) if key is not None and owner is not None else None,
        )

    def _body(self, prefix: bytes, header: Header, head: bytes, read: Read, *, whole: bool) -> Body:
        cuts = header.cuts
        if not header.plain:
            prefix += _recast(header, head)
            cuts = ((0, header.end),)
        facts = Facts()
        for start, end in _kept(cuts, len(head)):
            facts.feed(head[start:end])
        size = len(head)
        self._check(size)
        while not whole and (chunk := read(CHUNK)):
            facts.feed(chunk)
            size += len(chunk)
            self._check(size)
        return Body(
            size=size,
            wire_size=len(prefix) + facts.wire_size,
            header_end=header.end,
            cuts=cuts,
            prefix=prefix,
            eight_bit=facts.eight_bit or not prefix.isascii(),
            eight_bit_header=_eight_bit_header(prefix, header, head, cuts),
            long_lines=facts.long_lines or (not header.plain and _has_long_line(prefix)),
            nul=facts.nul or b"\0" in prefix,
            canonical=facts.canonical,
        )

    def _check(self, size: int) -> None:
        if size > self._max_message_size:
            raise too_large(size, self._max_message_size)


def too_large(size: int, limit: int) -> Refused:
    """Return the refusal of a file of `size` octets."""
    return Refused(
        f"the file has {size} octets and the limit is {limit}", "make it smaller or raise relay.max_message_size"
    )


def _filled(read: Read, wanted: int) -> tuple[bytes, bool]:
    """Return up to `wanted` octets, and whether the file has ended."""
    octets = read(wanted)
    return octets, len(octets) < wanted


def _kept(cuts: tuple[tuple[int, int], ...], size: int) -> list[tuple[int, int]]:
    """Return the ranges between the cuts."""
    starts = [0, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), size]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def _recast(header: Header, head: bytes) -> bytes:
    """Return the producer's header, less the cuts, as canonical lines with the empty line that ends it."""
    lines = [line for start, end in _kept(header.cuts, header.end) for line in head[start:end].splitlines()]
    written = b"".join(line + b"\r\n" for line in lines if line) + b"\r\n"
    if len(written) > MAX_RECAST:
        raise Refused("no empty line separates the header from the body", "put one between them")
    return written


def _eight_bit_header(prefix: bytes, header: Header, head: bytes, cuts: tuple[tuple[int, int], ...]) -> bool:
    if not prefix.isascii():
        return True
    if head.isascii():
        return False
    return not all(head[start:end].isascii() for start, end in _kept(_until(cuts, header.end), header.end))


def _until(cuts: tuple[tuple[int, int], ...], end: int) -> tuple[tuple[int, int], ...]:
    return tuple((start, min(stop, end)) for start, stop in cuts)


def _has_long_line(prefix: bytes) -> bool:
    return any(len(line) > MAX_LINE for line in prefix.splitlines())
