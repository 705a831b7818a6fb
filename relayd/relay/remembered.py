"""A set whose members go away by themselves."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Remembered(Generic[T]):
    """What was noted within the last `span`, at most `limit` of it: beyond that the oldest is forgotten.

    O(1) for each call.  Time is given by the caller and may stand still, but not go back far.
    """

    def __init__(self, span: timedelta, limit: int) -> None:
        self._span = span
        self._limit = limit
        self._until: dict[T, datetime] = {}  # in order of their ends

    def add(self, one: T, now: datetime) -> None:
        """Note `one`, anew if it was noted before."""
        self._until.pop(one, None)
        self._until[one] = now + self._span
        if len(self._until) > self._limit:
            del self._until[next(iter(self._until))]

    def discard(self, one: T) -> None:
        """Forget `one`."""
        self._until.pop(one, None)

    def has(self, one: T, now: datetime) -> bool:
        """Whether `one` was noted and its time is not over."""
        until = self._until.get(one)
        if until is None:
            return False
        if until <= now:
            del self._until[one]
            return False
        return True
