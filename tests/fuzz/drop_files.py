"""The reader of dropped files, for any octets, against a plain reading of its grammar (header.py, examine.py).

An accepted file is a Message; what cannot be understood is Refused, in one sentence; nothing else leaves the reader.
What is sent for a file, dropped again with its envelope written on top, gives the same envelope, and is sent as it was
with one more Received field on top.  Nothing that must not be sent is.
"""

from __future__ import annotations

from dataclasses import replace

from relayd.mail.envelope import Envelope
from relayd.mail.message import Message
from relayd.submission.header import Header, read_header
from relayd.submission.refusal import Refused
from tests.fuzz.choices import Choices
from tests.submission.support import ID, an_examiner, reading, sent

WORDS = (
    *(b"From: ann@example.org\n", b"To: bob@example.net\n", b"Bcc: carol@example.net\r\n", b"\n", b"\r\n", b"\r", b" "),
    *(b"X-Sender: <ann@example.org> RET=HDRS ENVID=42\n", b"X-Receiver: <bob@example.net> NOTIFY=NEVER\n", b"<>"),
    *(b"X-Relayd-Deadline: 30m\n", b"X-EndOfInjectedXHeaders: 1\n", b"X-CreatedBy: MSExchange15\n", b"X-Sender: <>\n"),
    *(b"Resent-From: d@example.org\n", b"Resent-To: e@example.org\n", b"Resent-Bcc: f@example.org\n", b"\tfolded\n"),
    *(b"Return-Path: <g@example.org>\n", b"Received: by x; now\n", b"Date: now\n", b"Message-ID: <1@x>\n", b"From "),
    *(b"\xef\xbb\xbf", b"=?utf-8?q?a?=", b'"a b"@example.org', b"a:b@example.org;", b"(c)", b",", b"\0", b"\xff", b":"),
    *(b"BY=120;R", b"NOTIFY=SUCCESS,FAILURE", b"ORCPT=rfc822;a+2Bb@x", b"x" * 999, "ü@exämple.org".encode()),
    *(
        b"\n.\n",
        b"Sender: h@example.org\n",
        b"Cc: i@example.org, j@example.org\n",
        b"X-Relayd-Deadline: 2026-11-24T21:00Z\n",
    ),
)
NEVER_SENT = frozenset({"bcc", "resent-bcc", "return-path", "x-relayd-deadline"})
ENVELOPE = frozenset({"x-sender", "x-receiver"})
LEADING = ENVELOPE | {
    *("x-relayd-deadline", "x-createdby", "x-endofinjectedxheaders", "x-extendedmessageprops", "x-extendedprops"),
    *("x-helodomain", "x-source"),
}
OTHER_ID = ID[:-1] + ("0" if ID[-1] != "0" else "1")
EXAMINER = an_examiner(aliases={"root": ("ops@example.org", "admin"), "admin": ("adm@example.org",)})


def one(octets: bytes) -> None:
    """See the module."""
    check(Choices(octets).mixed(WORDS, 60))


def check(octets: bytes) -> Message | None:
    """Claim it of one file; return its message, None if it was refused."""
    message = examined(octets, ID)
    assert message == examined(octets, ID, chunk=7), "how it is read makes a difference"
    header = agreed_header(octets)
    if message is None:
        return None
    assert header is not None
    going = sent(octets, message)
    claim_facts(octets, message, going)
    names = {name for name, _, _ in fields_of(going)[0]}
    assert not names & NEVER_SENT, names
    again = with_envelope(message.envelope) + going
    second = examined(again, OTHER_ID)
    if second is None:
        assert sum(name == "received" for name, _, _ in fields_of(going)[0]) >= 100
        return message
    assert addressed(second.envelope) == addressed(message.envelope)
    received = sent(again, second)
    assert received.startswith(b"Received: by ")
    assert received.endswith(b"\r\n" + going), (received, going)
    assert received.removesuffix(going).count(b"\r\n") == 2
    return message


def examined(octets: bytes, queue_id: str, chunk: int = 1024 * 1024) -> Message | None:
    """Return the message, None if it is refused: in one sentence, on one line, of bounded length."""
    try:
        return EXAMINER.examine(reading(octets), queue_id, expected=chunk)
    except Refused as refusal:
        sentence = str(refusal)
        assert sentence.endswith("."), sentence
        assert sentence.isprintable(), sentence
        assert len(sentence) < 1_500, len(sentence)
        return None


def agreed_header(octets: bytes) -> Header | None:
    """Claim that header.py reads the header as the plain reading here does; return it, None if it is refused."""
    try:
        header = read_header(octets, whole=True)
    except Refused:
        return None
    assert header is not None
    start = 3 if octets.startswith(b"\xef\xbb\xbf") else 0
    if octets.startswith(b"From ", start):
        start += len(first_line(octets[start:]))
    fields, end = fields_of(octets, start)
    leading = leading_of(fields)
    rest = fields[len(leading) :]
    begin = leading[-1][2] if leading else start
    cuts = [(0, begin)] if begin else []
    for name, at, stop in rest:
        if name in NEVER_SENT:
            cuts = [*cuts[:-1], (cuts[-1][0], stop)] if cuts and cuts[-1][1] == at else [*cuts, (at, stop)]
    last = rest[-1][2] if rest else begin
    assert end == last
    blank = first_line(octets[end:])
    is_blank = blank in (b"\r\n", b"\r", b"\n")
    assert header.end == end + len(blank) * is_blank
    assert header.cuts == tuple(cuts)
    assert [field.name for field in header.leading] == [
        n for n, _, _ in leading if n in ENVELOPE | {"x-relayd-deadline"}
    ]
    kept = {field.name for field in header.fields}
    assert [field.name for field in header.fields] == [name for name, _, _ in rest if name in kept]
    if header.plain:
        assert is_blank or end == len(octets)
    return header


def first_line(octets: bytes) -> bytes:
    """Return the first line with its end."""
    return next(iter(octets.splitlines(keepends=True)), b"")


def fields_of(octets: bytes, start: int = 0) -> tuple[list[tuple[str, int, int]], int]:
    """Return name, beginning and end of each field from `start` on, line by line, and where the last one ends."""
    fields: list[tuple[str, int, int]] = []
    position = start
    for line in octets[start:].splitlines(keepends=True):
        name, colon, _ = line.partition(b":")
        name = name.rstrip(b" \t")
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1] = (*fields[-1][:2], position + len(line))
        elif colon and name and all(33 <= octet <= 126 for octet in name):
            fields.append((name.decode("ascii").lower(), position, position + len(line)))
        else:
            break
        position += len(line)
    return fields, position


def leading_of(fields: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Return the lines of the envelope convention that stand before all others."""
    leading: list[tuple[str, int, int]] = []
    for field in fields:
        if field[0] not in LEADING:
            break
        leading.append(field)
        if field[0] == "x-endofinjectedxheaders":
            break
    return leading if any(name in ENVELOPE for name, _, _ in leading) else []


def claim_facts(octets: bytes, message: Message, going: bytes) -> None:
    """Claim that what was found out of the body holds for what is sent."""
    body = message.body
    kept = octets
    for start, end in reversed(body.cuts):
        kept = kept[:start] + kept[end:]
    assert body.size == len(octets)
    assert body.wire_size == len(going)
    assert body.eight_bit == (not going.isascii())
    assert body.nul == (b"\0" in going)
    assert body.long_lines == any(len(line) > 998 for line in going.splitlines())
    assert body.canonical == (b"".join(line + b"\r\n" for line in kept.splitlines()) == kept)
    assert len(message.envelope.recipients) == len({each.address for each in message.envelope.recipients})


def with_envelope(envelope: Envelope) -> bytes:
    """Return the envelope as lines before a message."""
    parameters = f" RET={envelope.ret}" if envelope.ret else ""
    parameters += f" ENVID={envelope.envid}" if envelope.envid else ""
    lines = [f"X-Sender: <{envelope.reverse_path or ''}>{parameters}\n"]
    for each in envelope.recipients:
        notify = f" NOTIFY={each.notify}" if each.notify else ""
        lines.append(f"X-Receiver: <{each.address}>{notify}{f' ORCPT={each.orcpt}' if each.orcpt else ''}\n")
    return "".join(lines).encode()


def addressed(envelope: Envelope) -> Envelope:
    """Return an envelope without what was read from the header itself."""
    return replace(envelope, deadline=None)
