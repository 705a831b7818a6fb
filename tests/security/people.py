"""Those who share a machine with relayd: its user, two members of the group that drops mail, and a stranger.

They are numbers, and need no accounts.  What they do is done by programs that anybody may run.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

DROPPERS = 65534  # the group: nogroup, as relayd's user is nobody here


@dataclass(frozen=True)
class Person:
    """Somebody.  `tries` has them run a line of sh; `can` tells whether it went well."""

    user: int
    group: int

    def tries(self, line: str, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", line, "sh", *map(str, arguments)],
            user=self.user,
            group=self.group,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def can(self, line: str, *arguments: Path | str) -> bool:
        return self.tries(line, *arguments).returncode == 0

    def sees(self, spool: Path, what: str) -> list[str]:
        """Return what of a spool passes a test of find(1), without what cannot be reached at all."""
        found = self.tries(f'find "$1" {what} 2>/dev/null', spool).stdout.splitlines()
        return sorted(str(Path(path).relative_to(spool)) for path in found)


ANN = Person(64001, DROPPERS)
MALLORY = Person(64002, DROPPERS)
STRANGER = Person(64003, 64003)
