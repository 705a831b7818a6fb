"""A path behind which there is another file from some look on: a race that is always won."""

from __future__ import annotations

from pathlib import Path, PosixPath
from typing import Self


class Fickle(PosixPath):
    """`first` for the first `looks` system calls, `then` for all that follow."""

    @classmethod
    def of(cls, first: Path, then: Path, *, looks: int = 1) -> Self:
        """See the class; it is called as `first` is."""
        path = cls(first)
        path._left, path._then = looks, then  # type: ignore[attr-defined]
        return path

    def __fspath__(self) -> str:
        self._left -= 1  # type: ignore[attr-defined]
        return str(self if self._left >= 0 else self._then)  # type: ignore[attr-defined]
