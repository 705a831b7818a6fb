"""The addresses in a header field (RFC 5322 section 3.4), found without guessing.

Pure, and linear in the length of the field.  Display names, with or without RFC 2047 words, comments and groups
are understood and left out; what is ambiguous is refused.  The grammar is stricter than RFC 5322's at one point: no
comment and no space may touch or divide an address, since that is how parsers are made to disagree on whose address
it is (CVE-2023-27043).  The texts found are not checked further here: mail/address.py does that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from relayd.submission.refusal import Refused, shown

MAX_ADDRESSES = 100_000  # of one field, and of one message

_FOLD = re.compile(r"(?:\r\n|\r|\n)(?=[ \t])")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_ADDRESS = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+"
_SIMPLE = re.compile(rf"(?:\"[^\"\\]*\"[ \t]*|[A-Za-z0-9 .'_-]*)<({_ADDRESS})>|({_ADDRESS})")
_SIMPLE_LENGTH = 400  # characters: what is longer is a list, or hostile
_TOKEN = re.compile(
    r"""(?P<angle> < (?: "(?:[^"\\]|\\.)*" | [^<>"] )* > )
      | (?P<word> "(?:[^"\\]|\\.)*" | \[ [^\[\]]* \] | [^\s"()<>\[\],:;\\]+ )
      | (?P<space> [ \t]+ )
      | (?P<mark> [,:;] )
      | (?P<comment> \( )""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"[^()\\]+|\\.|[()]")


def text_of(value: bytes, name: str) -> str:
    """Return the unfolded text of field `name`.

    Raises:
        Refused: it is not UTF-8 (RFC 6532), or has a control character other than a tab.
    """
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise _unreadable(name, value) from None
    text = _FOLD.sub("", text) if "\n" in text or "\r" in text else text
    if _CONTROL.search(text):
        raise _unreadable(name, text)
    return text.strip(" \t")


def addresses_in(text: str, name: str) -> list[str]:
    """Return the text of each address in the list that field `name` has, `""` for `<>`.

    Raises:
        Refused: a part of it is not an address; the sentence names it.
    """
    if len(text) <= _SIMPLE_LENGTH and (match := _SIMPLE.fullmatch(text)):
        return [match[1] or match[2]]
    return _List(text, name).read()


def too_many() -> Refused:
    """Return the refusal of a message with too many recipients."""
    return Refused(f"there are more than {MAX_ADDRESSES} recipients", "send several messages")


def _unreadable(name: str, text: str | bytes) -> Refused:
    return Refused(f"{name} cannot be read as addresses: {shown(text)}", "correct it and drop the file again")


@dataclass(slots=True)
class _Entry:
    """What stands between two commas: words (those that touch are one), and perhaps `<...>`."""

    words: list[str] = field(default_factory=list)
    angle: str | None = None
    touching: bool = False  # the last token was a word
    commented: bool = False  # a comment touches a word


class _List:
    """One pass over an address list."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._entry = _Entry()
        self._found: list[str] = []
        self._in_group = False
        self._closed = False  # a group has ended: only a comma may follow
        self._after_comment = False

    def read(self) -> list[str]:
        position = 0
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            if match is None:
                raise self._refusal()
            kind, token = match.lastgroup, match[0]
            position = match.end()
            if kind == "comment":
                position = self._end_of_comment(position)
                self._entry.commented |= self._entry.touching
                self._entry.touching, self._after_comment = False, True
                continue
            self._take(kind or "", token)
            self._after_comment = False
        self._end_entry()
        if self._in_group:
            raise self._refusal()
        return self._found

    def _take(self, kind: str, token: str) -> None:
        entry = self._entry
        if kind in ("word", "angle") and (self._closed or entry.angle is not None):
            raise self._refusal()
        if kind == "word":
            entry.commented |= self._after_comment
            if entry.touching:
                entry.words[-1] += token
            else:
                entry.words.append(token)
        elif kind == "angle":
            entry.angle = token[1:-1].strip(" \t")
        elif kind == "mark":
            self._mark(token)
        self._entry.touching = kind == "word"

    def _mark(self, token: str) -> None:
        match token:
            case ",":
                self._end_entry()
                self._closed = False
            case ":":
                self._begin_group()
            case ";":
                if not self._in_group:
                    raise self._refusal()
                self._end_entry()
                self._in_group, self._closed = False, True

    def _begin_group(self) -> None:
        entry = self._entry
        if self._in_group or self._closed or entry.angle is not None or not entry.words or _has_at(entry.words):
            raise self._refusal()
        self._in_group = True
        self._entry = _Entry()

    def _end_entry(self) -> None:
        entry, self._entry = self._entry, _Entry()
        if entry.angle is not None:
            # `ann@example.org <ann@example.org>` is common, and can mean only one thing
            if _has_at(entry.words) and entry.words != [entry.angle]:
                raise self._refusal(*entry.words)
            self._add(entry.angle)
        elif len(entry.words) == 1 and not entry.commented:
            self._add(entry.words[0])
        elif entry.words:
            raise self._refusal(*entry.words)

    def _add(self, address: str) -> None:
        if len(self._found) == MAX_ADDRESSES:
            raise too_many()
        self._found.append(address)

    def _end_of_comment(self, position: int) -> int:
        depth = 1
        while depth:
            match = _COMMENT.match(self._text, position)
            if match is None:
                raise self._refusal()
            depth += (match[0] == "(") - (match[0] == ")")
            position = match.end()
        return position

    def _refusal(self, *words: str) -> Refused:
        return _unreadable(self._name, " ".join(words) or self._text)


def _has_at(words: list[str]) -> bool:
    return any("@" in word for word in words if not word.startswith('"'))
