"""MTA-STS: any TXT record and any policy are read as a plain reading of the grammar has it, or are none in words.

What was read is written and read again as the same; a file of the cache that is none raises ValueError alone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from relayd.route.answers import Found
from relayd.route.sts import Invalid, Mode, Record, StsPolicy, parse_policy, record_of
from relayd.route.sts_cache import read, written
from tests.fuzz.choices import Choices

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DOMAIN = "example.org"
SOUND = b"version: STSv1\r\nmode: enforce\nmx: mx.example.org\nmx: *.example.net\nmax_age: 604800\n"
FOUND = StsPolicy(
    domain=DOMAIN, id="1", mode=Mode.ENFORCE, mx=("mx.example.org",), max_age=timedelta(days=7), fetched=NOW
)
WORDS = (
    *(b"v=STSv1", b";", b" ", b"\t", b"id=", b"1", b"20261101", b"=", b"a" * 33, b"\xff", b"\0", b"\xef\xbb\xbf"),
    *(b"version: STSv1\r\n", b"mode: enforce\n", b"mode: testing\n", b"mode: none\n", b"max_age: 604800\r\n"),
    *(b"mx: mx.example.org\n", b"mx: *.example.org\r\n", b"mx: *.", b"mx:", b"max_age: ", b"31557601", b"\n", b"\r"),
    *(b"x-y.z_1: anything, \xc3\xa9\n", b'{"domain": "example.org", "id": "1", ', b'"fetched": "2026-11-01", '),
    *(b'"policy": [', b'"mode: none"', b"]}", b"[" * 4000, b"null", b"x" * 64 + b"."),
)


def one(octets: bytes) -> None:
    """See the module."""
    choices = Choices(octets)
    record, policy = (choices.pick((b"", sound)) for sound in (b"v=STSv1; id=1; a=b", SOUND))
    where = choices.number(256)
    some = choices.mixed(WORDS, 24)
    check_record(put_into(record, some, where).decode("ascii", "replace"))
    check_policy(put_into(policy, some, where))
    try:
        read(DOMAIN, put_into(written(FOUND) if policy else b"", some, where))
    except ValueError:
        return


def put_into(sound: bytes, some: bytes, where: int) -> bytes:
    """Return a sound text that is not sound any more, perhaps."""
    at = where % (len(sound) + 1)
    return sound[:at] + some + sound[at:]


def check_record(text: str) -> None:
    """Claim it of a TXT record."""
    found = record_of(Found((text,)))
    fields = re.sub(r"[ \t]*;[ \t]*\Z", "", text.removeprefix("v=STSv1;"))
    pairs = [each.strip(" \t") for each in fields.split(";")]
    sound = all(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[!-~]+", pair) and pair.count("=") == 1 for pair in pairs
    )
    ids = [pair[3:] for pair in pairs if pair.startswith("id=")]
    if text.startswith("v=STSv1;") and sound and ids and len(ids[0]) <= 32 and ids[0].isalnum():
        assert found == Record(ids[0])
    else:
        assert not isinstance(found, Record), text


def check_policy(body: bytes) -> None:
    """Claim it of a policy."""
    policy = parse_policy(DOMAIN, "1", body, NOW)
    if isinstance(policy, Invalid):
        assert policy.why
        assert plainly(body) is None, policy.why
        return
    assert plainly(body) == (policy.mode, policy.mx, policy.max_age)
    assert parse_policy(DOMAIN, "1", "\n".join(policy.lines).encode(), NOW) == policy
    assert read(DOMAIN, written(policy)) == policy
    assert all(policy.names(mx.replace("*", "a")) for mx in policy.mx)


def plainly(body: bytes) -> tuple[Mode, tuple[str, ...], timedelta] | None:
    """Return what a plain reading of RFC 8461 section 3.2 finds, None if nothing."""
    values: dict[str, list[str]] = {}
    try:
        lines = body.decode().split("\n")
    except UnicodeDecodeError:
        return None
    for line in lines:
        line = line.removesuffix("\r")
        if not line.strip(" \t"):
            continue
        name, colon, value = line.partition(":")
        well = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", name) and colon
        if not well or any((char < " " and char != "\t") or char == "\x7f" for char in line):
            return None
        values.setdefault(name, []).append(value.strip(" \t"))
    mode, age, mx = values.get("mode", [""])[0], values.get("max_age", [""])[0], values.get("mx", [])
    if values.get("version", [""])[0] != "STSv1" or mode not in ("enforce", "testing", "none"):
        return None
    if not re.fullmatch(r"[0-9]{1,10}", age) or int(age) > 31557600 or len(mx) > 100 or not (mx or mode == "none"):
        return None
    if not all(_is_pattern(each) for each in mx):
        return None
    return Mode(mode), tuple(each.lower() for each in mx), timedelta(seconds=int(age))


def _is_pattern(text: str) -> bool:
    labels = text.removeprefix("*.").split(".")
    sound = (re.fullmatch(r"[A-Za-z0-9-]{1,63}", label) and label[0] != "-" != label[-1] for label in labels)
    return len(text) <= 255 and all(sound)
