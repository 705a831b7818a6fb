"""Kill relayd at every system call that changes or syncs its spool, and see that nothing is lost.

    python -m tests.kills [--out FILE] [--directory DIR] [--processes 0 1] [--calls rename ...] [--jobs 2]

Each run is added to FILE, a line of JSON; a sweep that was ended goes on where it was.  At its end the counts are
printed, and the exit code is 1 if anything was wrong.  Needs root (files of other owners) and strace.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.kills.sweep import read, sweep_all
from tests.kills.table import table


def main() -> int:
    """Sweep; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/kills.jsonl"))
    parser.add_argument("--directory", type=Path, help="for the spools; in memory it is quicker")
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[0, 1], help="numbers of workers, one after another"
    )
    parser.add_argument("--calls", nargs="*", default=[], help="all that the stories make, unless given")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.directory) as scratch:
        sweep_all(Path(scratch), asked.out.absolute(), processes=asked.processes, calls=asked.calls, jobs=asked.jobs)
    rows = read(asked.out)
    print(table(rows))
    wrong = [row for row in rows if row["faults"]]
    for row in wrong:
        print(row)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
