"""The addresses in a header that lack a domain get one, as they do in the envelope: elsewhere `From: root` is nobody.

Pure.  Only what can mean one thing is changed (`root`, `root (Cron Daemon)`, `Cron <root>`, in lists of such); a field
with anything else in it that is not understood stays as it is, octet by octet.
"""

from __future__ import annotations

import re

_FIELD = re.compile(
    rb"^((?:Resent-)?(?:From|Sender|Reply-To|To|Cc)[ \t]*:)([^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*)",
    re.IGNORECASE | re.MULTILINE,
)
_TOKEN = re.compile(
    rb"""(?P<quoted> "(?:[^"\\]|\\.)*" )
       | (?P<comment> \( (?:[^()\\]|\\.)* \) )
       | (?P<angle> < [^<>"]* > )
       | (?P<comma> , )
       | (?P<space> [ \t\r\n]+ )
       | (?P<word> [^\s"()<>,:;\\]+ )""",
    re.VERBOSE,
)
_ATEXT = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART = re.compile(_ATEXT + rb"(?:\." + _ATEXT + rb")*")

_Token = tuple[str, bytes]


def qualified(fields: bytes, origin: str) -> bytes:
    """Return the fields of a header with `@origin` behind each address that has no domain."""
    domain = b"@" + origin.encode("ascii")
    return _FIELD.sub(lambda match: match[1] + _qualified_list(match[2], domain), fields)


def _qualified_list(value: bytes, domain: bytes) -> bytes:
    entries: list[list[_Token]] = [[]]
    position = 0
    while position < len(value):
        match = _TOKEN.match(value, position)
        if match is None:
            return value
        position = match.end()
        if match.lastgroup == "comma":
            entries.append([])
        else:
            entries[-1].append((match.lastgroup or "", match[0]))
    return b",".join(_qualified_entry(entry, domain) for entry in entries)


def _qualified_entry(entry: list[_Token], domain: bytes) -> bytes:
    kinds = [kind for kind, _ in entry if kind not in ("space", "comment")]
    if kinds.count("angle") == 1:
        return b"".join(_completed(each, domain) if kind == "angle" else each for kind, each in entry)
    if kinds == ["word"]:
        return b"".join(_with_domain(each, domain) if kind == "word" else each for kind, each in entry)
    return b"".join(each for _, each in entry)


def _completed(angle: bytes, domain: bytes) -> bytes:
    return b"<" + _with_domain(angle[1:-1], domain) + b">"


def _with_domain(text: bytes, domain: bytes) -> bytes:
    return text + domain if _LOCAL_PART.fullmatch(text) else text
