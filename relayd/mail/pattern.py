"""Patterns of domains and host names, as `match` of the configuration has them.

Pure.

    example.net       the name itself
    *.example.net     what is below it, however deep, but not itself
    [192.0.2.1]       an address literal
    *                 everything, address literals too
"""

from __future__ import annotations

from relayd.mail.address import parse_domain
from relayd.mail.errors import InvalidAddress


def parse_pattern(text: str) -> str:
    """Return a pattern in its canonical form: lower-case A-labels; ValueError if it is none."""
    text = text.strip()
    if text == "*":
        return text
    prefix = "*." if text.startswith("*.") else ""
    try:
        return prefix + parse_domain(text.removeprefix("*."))
    except InvalidAddress:
        raise ValueError(f"a pattern is a domain, *.domain or *, not {text!r}") from None


def matches(pattern: str, name: str) -> bool:
    """Whether a canonical pattern matches a name, a lower-case A-label or an address literal."""
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return pattern in ("*", name)
