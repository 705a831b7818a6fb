"""What relayd counts, in one place: names, help texts, figures since the start.

The names are an interface, as the log's keys are: they are served as metrics under `relayd_`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum


class Counted(Enum):
    """A counter's name and what it counts."""

    def __init__(self, label: str, help_text: str) -> None:
        self.label = label
        self.help_text = help_text

    ACCEPTED = "messages_accepted_total", "Messages taken into the queue."
    ACCEPTED_OCTETS = "octets_accepted_total", "Octets of the messages taken into the queue."
    REPEATED = "submissions_repeated_total", "Dropped files whose key an earlier message had."
    REJECTED = "files_rejected_total", "Dropped files that were not understood and went to rejected/."
    LEFT = "files_left_total", "Dropped files left where they are: unreadable, links, not regular files."
    ATTEMPTS = "attempts_total", "Attempts settled, each recipient counted."
    DELIVERED = "delivered_total", "Recipients delivered."
    DEFERRED = "deferred_total", "Attempts at a recipient that are to be repeated."
    FAILED = "failed_total", "Recipients given up."
    REMOVED = "removed_total", "Recipients removed by an operator during an attempt."
    BOUNCES = "notifications_failed_total", "Notifications of failure made."
    DELAY_WARNINGS = "notifications_delayed_total", "Notifications of delay made."
    SUCCESS_NOTICES = "notifications_relayed_total", "Notifications of success made."
    UNTOLD = "notifications_dropped_total", "Failures that nobody could be told of: messages from <>."
    BACK_OFFS = "site_back_offs_total", "Times that a site could not be used and backed off."
    RECOVERIES = "site_recoveries_total", "Times that a site took mail again after a back-off."
    MARKED = "possible_duplicates_total", "Recipients marked possible duplicate after a crash."
    HELD = "messages_held_after_deaths_total", "Messages held because a process died with them in hand."
    WORKER_DEATHS = "worker_deaths_total", "Relayer processes that ended by themselves."
    DEGRADED = "degraded_total", "Times that a part could not do its work."
    TROUBLE = "trouble_total", "Unexpected exceptions."


class Counters:
    """Figures that only grow.  Used from one thread."""

    def __init__(self) -> None:
        self._figures = dict.fromkeys(Counted, 0)

    def add(self, counted: Counted, count: int = 1) -> None:
        """Count."""
        self._figures[counted] += count

    def __getitem__(self, counted: Counted) -> int:
        return self._figures[counted]

    def described(self) -> Iterator[tuple[str, str, int]]:
        """Yield all figures, each with its name and what it counts."""
        for counted, figure in self._figures.items():
            yield counted.label, counted.help_text, figure

    def snapshot(self) -> dict[str, int]:
        """Return all figures by name, those that are 0 too."""
        return {counted.label: figure for counted, figure in self._figures.items()}
