"""Octets as a list of choices: what a target that wants structure makes of what a fuzzer gives it.

Every sequence of octets is a valid one, and a small change of it changes little; when they are used up, each further
choice is the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """See the module."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    @property
    def left(self) -> int:
        """How many octets are not used yet."""
        return len(self._octets) - self._at

    def number(self, below: int) -> int:
        """Return a number from 0 to `below` - 1."""
        size = max(1, ((below - 1).bit_length() + 7) // 8)
        return int.from_bytes(self.take(size), "big") % below

    def pick(self, among: Sequence[T]) -> T:
        """Return one of them."""
        return among[self.number(len(among))]

    def chance(self) -> bool:
        """Return False or True."""
        return bool(self.number(2))

    def take(self, size: int) -> bytes:
        """Return the next octets, at most `size`."""
        taken = self._octets[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def some(self, at_most: int) -> bytes:
        """Return up to `at_most` octets, as many as the next choice says."""
        return self.take(self.number(at_most + 1))

    def text(self, at_most: int) -> str:
        """Return a text of up to `at_most` octets of UTF-8."""
        return self.some(at_most).decode("utf-8", "replace")

    def mixed(self, words: Sequence[bytes], at_most: int) -> bytes:
        """Return up to `at_most` pieces, each one of `words` or a few other octets."""
        pieces: list[bytes] = []
        while self.left and len(pieces) < at_most:
            pieces.append(self.pick(words) if self.chance() else self.some(40))
        return b"".join(pieces)
