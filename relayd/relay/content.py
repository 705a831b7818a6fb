"""The octets of a message as they are sent: from the file, exactly once.

Pure.  In this order: the prefix and the kept parts of the file; every CR, LF and CRLF becomes CRLF, and the last line
gets one if it has none (RFC 5321 section 2.3.8); a line of more than 998 octets is folded (section 4.5.3.1.6), if there
is one; then, for DATA, every line that begins with a dot gets another (section 4.5.2).  Stuffing before the lines are
right would let `CR.CRLF` through: the end of data, to some.  The octets just read decide, not what was noted of them at
submission, but for whether there are long lines.

Invariants, checked by tests/relay/test_content.py:

    The result does not depend on how the file was cut into chunks; `whole` and `Encoder` agree.
    No CR without LF, no LF without CR, no line of more than 998 octets, no line that is a lone dot where that matters.
"""

from __future__ import annotations

from relayd.mail.message import Body
from relayd.relay.folding import MAX_LINE, Folder


def whole(body: Body, file: bytes, *, stuffed: bool = True) -> bytes:
    """Return the content of a small message, its last CRLF included; what ends it is not.  `stuffed`: for DATA."""
    if body.long_lines:
        encoder = Encoder(body, stuffed=stuffed)
        return encoder.feed(file) + encoder.finish()
    content = _canonical(body.prefix + (without(file, body.cuts) if body.cuts else file))
    if not content:
        return b""
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    return _stuffed(content, at_start=True) if stuffed else content


def transmitted(body: Body) -> int:
    """Return how many octets go over the wire at most, dot-stuffing not counted (RFC 1870 section 5)."""
    folds = 2 * (body.wire_size // MAX_LINE + 1) if body.long_lines else 0  # two for each full line, at spaces
    return body.wire_size + 3 * folds


def without(file: bytes, cuts: tuple[tuple[int, int], ...], offset: int = 0) -> bytes:
    """Return `file`, which begins at `offset` of the whole, without the ranges of the whole that `cuts` names."""
    end = offset + len(file)
    kept = []
    position = offset
    for start, stop in cuts:
        if stop <= position or start >= end:
            continue
        kept.append(file[position - offset : max(start, position) - offset])
        position = min(stop, end)
    kept.append(file[position - offset :])
    return b"".join(kept)


class Encoder:
    """The content of a large message, chunk by chunk.

    The last CRLF is held back until more follows, so that it leaves together with what ends the message.
    """

    __slots__ = ("_begun", "_carriage", "_cuts", "_folder", "_held", "_prefix", "_stuffs", "octets")

    def __init__(self, body: Body, *, stuffed: bool = True) -> None:
        self.octets = 0  # of the file, fed so far
        self._prefix = body.prefix
        self._cuts = body.cuts
        self._stuffs = stuffed
        self._folder = Folder() if body.long_lines else None
        self._begun = False
        self._carriage = False  # the last octet was a CR: its LF may follow
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what can leave after the next `chunk` of the file; b"" if nothing."""
        kept = self._prefix + (without(chunk, self._cuts, self.octets) if self._cuts else chunk)
        self._prefix = b""
        self.octets += len(chunk)
        if self._carriage:
            kept = b"\r" + kept
        self._carriage = kept.endswith(b"\r")
        return self._pass(_canonical(kept[:-1] if self._carriage else kept), last=False)

    def finish(self) -> bytes:
        """Return the rest: the last CRLF at least; b"" only for a message without an octet."""
        rest = self._pass(_canonical(self._prefix + b"\r" * self._carriage), last=True)
        if self._begun and not self._held:
            return rest + b"\r\n"
        return rest + self._held

    def _pass(self, octets: bytes, *, last: bool) -> bytes:
        """Fold and stuff canonical octets; return what can leave of them."""
        if self._folder is not None:
            octets = self._folder.feed(octets) + (self._folder.finish() if last else b"")
        if not octets:
            return b""
        octets = self._held + octets
        if self._stuffs:
            octets = _stuffed(octets, at_start=not self._begun)
        self._begun = True
        self._held = b"\r\n" if octets.endswith(b"\r\n") else b""
        return octets.removesuffix(b"\r\n")


_NO_ENDS = bytes(octet for octet in range(256) if octet not in b"\r\n")


def _canonical(octets: bytes) -> bytes:
    """Make every line end a CRLF.  What is right already, as nearly all mail is, costs two scans and no copy."""
    if 2 * octets.count(b"\r\n") == len(octets.translate(None, _NO_ENDS)):
        return octets
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def _stuffed(content: bytes, *, at_start: bool) -> bytes:
    if at_start and content.startswith(b"."):
        content = b"." + content
    return content.replace(b"\r\n.", b"\r\n..")
