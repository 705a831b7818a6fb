"""A message for a server that cannot take it as it is: parts re-encoded, so that nothing is lost (RFC 6152 section 3).

Pure.  What is changed are the leaves that hold an octet above 127 where the server lacks 8BITMIME, a line of more than
998 octets (RFC 5321 section 4.5.3.1.6), or a NUL; they become quoted-printable or base64.  Every other octet stays.

Two proofs, or there is no result: unchanged, the standard library's email package writes the message exactly as it was
read, so it has understood it; and the result, read again, has the same parts with the same fields and the same decoded
octets.  What is signed or encrypted (RFC 1847) is never changed, and a header never re-encoded.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from email.generator import BytesGenerator
from email.message import Message
from email.parser import BytesParser
from email.policy import Compat32
from hashlib import sha256
from io import BytesIO
from typing import Any

from relayd.relay.folding import MAX_LINE

IMPOSSIBLE = 69  # sysexits(3): as an exit code

_CTE = "content-transfer-encoding"
_IDENTITY = frozenset(("", "7bit", "8bit", "binary"))
_SEALED = frozenset(("multipart/signed", "multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"))
_OURS = frozenset((_CTE, "mime-version", "content-type"))  # fields that may come to be there
_MAX_DEPTH = 100  # of parts in parts
_BASE64 = re.compile(r"[A-Za-z0-9+/=\r\n \t]*")


class _Impossible(Exception):
    """It cannot be done without harm."""


class _Verbatim(Compat32):
    """Keeps each field as it was written, folding included; lines end in CRLF."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, _, value = "".join(sourcelines).partition(":")
        return name, value.removesuffix("\r\n")

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value.strip()

    def fold(self, name: str, value: str) -> str:
        return f"{name}:{value}\r\n"

    def fold_binary(self, name: str, value: str) -> bytes:
        return self.fold(name, value).encode("ascii", "surrogateescape")


class _Part(Message):
    """A part that can tell what is written in it: `get_payload` would decode it by its charset."""

    _payload: object

    @property
    def written(self) -> str:
        """The content of a leaf, octets above 127 as surrogates."""
        assert isinstance(self._payload, str)
        return self._payload

    def inner(self) -> Iterator[_Part]:
        """Yield the parts of it."""
        assert isinstance(self._payload, list)
        for one in self._payload:
            assert isinstance(one, _Part)
            yield one


_POLICY: Any = _Verbatim(linesep="\r\n", mangle_from_=False)


def recast(content: bytes, *, eight_bit: bool) -> bytes | None:
    """Return `content` so that it can be sent; None if that cannot be done without harm.

    `content` is canonical and not dot-stuffed.  `eight_bit`: the server offers 8BITMIME.  The header may still have
    lines that are too long.  Takes some six times the memory of the content.
    """
    try:
        message = _parsed(content)
        if _written(message) != content:
            return None
        before = _Gist.of(message)
        _Recast(eight_bit=eight_bit).visit(message, depth=0, sealed=False, root=True)
        result = _written(message)
        same = before.kept_by(_Gist.of(_parsed(result)))
    except (_Impossible, RecursionError, ValueError, LookupError, TypeError, AttributeError, AssertionError):
        return None  # the email package has its own way with what is no mail
    return result if same and (eight_bit or result.isascii()) else None


class _Recast:
    """Changes a message in place."""

    def __init__(self, *, eight_bit: bool) -> None:
        self._eight_bit = eight_bit

    def visit(self, part: _Part, *, depth: int, sealed: bool, root: bool) -> None:
        """Change what has to be, in `part` and below.  `root`: it is a message of its own."""
        if depth > _MAX_DEPTH:
            raise _Impossible
        texts = [text for field in part.raw_items() for text in field] + [part.preamble or "", part.epilogue or ""]
        if not self._eight_bit and not all(text.isascii() for text in texts):
            raise _Impossible
        kind = part.get_content_type()
        sealed = sealed or kind in _SEALED
        if part.is_multipart():
            inner_is_root = part.get_content_maintype() == "message"
            for inner in part.inner():
                self.visit(inner, depth=depth + 1, sealed=sealed, root=inner_is_root)
            if not self._eight_bit and _encoding(part) in ("8bit", "binary"):
                _label(part, "7bit")
            return
        text = part.written
        if self._needs(text):
            if sealed:
                raise _Impossible
            self._encode(part, text, root=root)
        elif not self._eight_bit and _encoding(part) in ("8bit", "binary"):
            _label(part, "7bit")

    def _needs(self, text: str) -> bool:
        if not (self._eight_bit or text.isascii()) or "\0" in text:
            return True
        return len(text) > MAX_LINE and any(len(line) > MAX_LINE for line in text.split("\r\n"))

    def _encode(self, part: _Part, text: str, *, root: bool) -> None:
        octets = _decoded(part)
        if part.get_content_maintype() == "text" and _mostly_ascii(octets):
            _set(part, binascii.b2a_qp(octets, istext=True), "quoted-printable")
        else:
            _set(part, base64.encodebytes(octets).replace(b"\n", b"\r\n"), "base64")
        if "content-type" not in part:
            part["Content-Type"] = f" text/plain; charset={_charset(octets)}"
        if root and "mime-version" not in part:
            part["MIME-Version"] = " 1.0"


def _parsed(content: bytes) -> _Part:
    parsed: _Part = BytesParser(_Part, policy=_POLICY).parsebytes(content)
    return parsed


def _written(message: _Part) -> bytes:
    out = BytesIO()
    BytesGenerator(out, mangle_from_=False, policy=_POLICY).flatten(message)
    return out.getvalue()


def _encoding(part: _Part) -> str:
    found = part.get_all(_CTE, [])
    if len(found) > 1:
        raise _Impossible
    return found[0].lower() if found else ""


def _decoded(part: _Part) -> bytes:
    """Return the octets that a leaf stands for."""
    encoding, text = _encoding(part), part.written
    octets = text.encode("ascii", "surrogateescape")
    if encoding in _IDENTITY:
        return octets
    if encoding == "quoted-printable":
        return binascii.a2b_qp(octets)
    if encoding == "base64" and _BASE64.fullmatch(text):
        return binascii.a2b_base64(octets)
    raise _Impossible


def _mostly_ascii(octets: bytes) -> bool:
    """Whether quoted-printable, three octets for one, is shorter than base64, and the better to read."""
    return len(octets.translate(None, bytes(range(32, 127)) + b"\r\n\t")) * 6 < len(octets)


def _charset(octets: bytes) -> str:
    """Return what text without a Content-Type may claim to be: UTF-8 if it is, else RFC 1428's word."""
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return "unknown-8bit"
    return "us-ascii" if octets.isascii() else "utf-8"


def _set(part: _Part, encoded: bytes, encoding: str) -> None:
    part.set_payload(encoded.decode("ascii"))
    _label(part, encoding)


def _label(part: _Part, encoding: str) -> None:
    if _CTE in part:
        part.replace_header(_CTE, f" {encoding}")
    else:
        part["Content-Transfer-Encoding"] = f" {encoding}"


@dataclass(frozen=True, slots=True)
class _Gist:
    """What must be kept of a part: its fields in order, what stands around its parts, and the digest of a leaf."""

    kind: str
    fields: tuple[tuple[str, str], ...]
    around: tuple[str | None, str | None]
    inner: tuple[_Gist, ...]
    digest: bytes

    @classmethod
    def of(cls, part: _Part) -> _Gist:
        inner = tuple(cls.of(one) for one in part.inner()) if part.is_multipart() else ()
        return cls(
            kind=part.get_content_type(),
            fields=tuple(part.raw_items()),
            around=(part.preamble, part.epilogue),
            inner=inner,
            digest=b"" if part.is_multipart() else sha256(_decoded_if_known(part)).digest(),
        )

    def kept_by(self, other: _Gist) -> bool:
        """Whether `other` differs by the encoding alone, and perhaps by more of our fields behind the others."""
        added = other.fields[len(self.fields) :]
        return (
            (self.kind, self.around, self.digest) == (other.kind, other.around, other.digest)
            and len(self.fields) <= len(other.fields)
            and all(
                a == b or (a[0] == b[0] and a[0].lower() == _CTE)
                for a, b in zip(self.fields, other.fields, strict=False)
            )
            and {name.lower() for name, _ in added} <= _OURS
            and len(self.inner) == len(other.inner)
            and all(a.kept_by(b) for a, b in zip(self.inner, other.inner, strict=True))
        )


def _decoded_if_known(part: _Part) -> bytes:
    try:
        return _decoded(part)
    except _Impossible:
        return part.written.encode("ascii", "surrogateescape")


def main() -> int:
    """Recast standard input to standard output; return IMPOSSIBLE if that cannot be done."""
    result = recast(sys.stdin.buffer.read(), eight_bit="8bit" in sys.argv[1:])
    if result is None:
        return IMPOSSIBLE
    sys.stdout.buffer.write(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
