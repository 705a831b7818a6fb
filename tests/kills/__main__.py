"""Kill relayd at every system call that changes or syncs its spool, and see that nothing is lost.

    python -m tests.kills [--out FILE] [--directory DIR] [--processes 0 1] [--calls rename ...] [--jobs 2]
    python -m tests.kills --errors ...

With --errors the calls fail instead, as they do on a bad or full disk or without a free descriptor.  Each run is
added to FILE, a line of JSON; a sweep that was ended goes on where it was.  At its end the counts are printed, and the
exit code is 1 if anything was wrong.  Needs root (files of other owners) and strace.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.kills import table
from tests.kills.ground import Ground
from tests.kills.series import Series, kills, troubles
from tests.kills.sweep import read, sweep_all


def main() -> int:
    """Sweep; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--errors", action="store_true", help="let calls fail instead")
    parser.add_argument("--out", type=Path, help="build/kills.jsonl or build/errors.jsonl, unless given")
    parser.add_argument("--directory", type=Path, help="for the spools; in memory it is quicker")
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[0, 1], help="numbers of workers, one after another"
    )
    parser.add_argument("--calls", nargs="*", default=[], help="all that the stories make, unless given")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    out = (asked.out or Path("build") / f"{'errors' if asked.errors else 'kills'}.jsonl").absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.directory) as scratch:
        sweep_all(Path(scratch), out, _todo(asked, Path(scratch) / "profile"), jobs=asked.jobs)
    rows = read(out)
    print((table.of_failures if asked.errors else table.of_kills)(rows))
    wrong = [row for row in rows if row["faults"]]
    for row in wrong:
        print(row)
    return bool(wrong)


def _todo(asked: argparse.Namespace, directory: Path) -> list[Series]:
    if asked.errors:
        return list(troubles(asked.calls))
    with Ground(directory) as ground:
        return [each for processes in asked.processes for each in kills(ground, processes, asked.calls)]


if __name__ == "__main__":
    sys.exit(main())
