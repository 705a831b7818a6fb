"""An operator who does something to the queue now and then, by the command line."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from benchmarks.soaking.keeper import Keeper

LISTED = 1000  # messages looked at
AT_ONCE = 5  # messages
KEPT_OF = 10  # one of so many that were held stays held


class Operator:
    """See the module.  What is held for good is `kept`."""

    def __init__(self, keeper: Keeper, seed: int) -> None:
        self._keeper = keeper
        self._chance = random.Random(seed)
        self._held: list[str] = []
        self.kept: list[str] = []
        self.counts: Counter[str] = Counter()

    def act(self) -> None:
        """Look at the queue and do one thing to a few messages."""
        verb = self._chance.choice(("hold", "release", "retry", "remove"))
        if verb == "release":
            ids, self._held = self._held, []
        else:
            waiting = [each["id"] for each in self.listed(LISTED) if not each["held"]]
            ids = self._chance.sample(waiting, min(AT_ONCE, len(waiting)))
        if ids:
            self._do(verb, ids)
        if verb == "hold":
            for each in ids:
                (self._held if self._chance.randrange(KEPT_OF) else self.kept).append(each)

    def let_go(self) -> None:
        """Release what is not to stay held, and have everything tried at once."""
        if self._held:
            self._do("release", self._held)
            self._held = []
        self._keeper.command("queue", "retry", "--all")

    def listed(self, limit: int = 1_000_000) -> list[dict[str, Any]]:
        """Return what `queue list --json` shows."""
        done = self._keeper.command("queue", "list", "--json", "--limit", str(limit))
        return list(json.loads(done.stdout)) if done.returncode == 0 else []

    def _do(self, verb: str, ids: list[str]) -> None:
        done = self._keeper.command("queue", verb, *ids)
        self.counts[verb if done.returncode in (0, 65) else f"{verb} failed"] += 1  # 65: some have ended meanwhile
