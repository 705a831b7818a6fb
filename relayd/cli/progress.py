"""A bar for whatever takes longer than a second, on a terminal; nothing elsewhere."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PATIENCE = 1.0  # seconds


class Progress:
    """`total` None: nobody knows how much it is."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(PATIENCE, self._show) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._timer = None
            if self._bar is not None:
                self._bar.stop()

    def advance(self, count: int) -> None:
        """So much more is done."""
        with self._lock:
            self._done += count
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=self._done)

    def _show(self) -> None:
        from rich.console import Console  # what is quick starts faster without it
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        known = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) if self._total is not None else ()
        with self._lock:
            if self._timer is None:
                return
            bar = Bar(
                SpinnerColumn(), TextColumn("{task.description}"), *known, console=Console(stderr=True), transient=True
            )
            self._task = bar.add_task(self._what, total=self._total, completed=self._done)
            self._bar = bar
            bar.start()
