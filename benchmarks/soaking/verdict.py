"""The end of a soak: what became of every recipient, and how relayd's memory and descriptors grew, in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.soaking.ledger import Ledger, Verdict
from benchmarks.soaking.samples import Sample, growth, points

SHOWN = 20  # faults


def judged(ledger: Ledger, directory: Path) -> int:
    """Print what became of the recipients; return how many faults there are, which are in `faults` too."""
    ends, twice, faults = Counter[str](), 0, list[Verdict]()
    for verdict in ledger.verdicts():
        ends[verdict.end] += 1
        twice += verdict.twice
        if verdict.fault:
            faults.append(verdict)
    marked = sum(ledger.marked)
    print(f"{ledger.dropped} messages dropped for {ends.total()} recipients: {_counts(ends)}")
    print(f"more than one copy: {twice}, all marked but those below; marked: {marked}")
    outside = ledger.outside()
    print(f"faults: {len(faults)}; not what was dropped: {len(ledger.wrong)}; dropped by nobody: {outside}")
    (directory / "faults").write_text("".join(f"{each.number}: {each.fault}\n" for each in faults))
    for each in faults[:SHOWN]:
        print(f"    r{each.number}: {each.fault}")
    return len(faults) + len(ledger.wrong) + outside


def grown(samples: Sequence[Sample], seconds: float) -> None:
    """Print how what was sampled grew in the second half of so many seconds."""
    half = [each for each in samples if seconds / 2 <= each["t"] <= seconds]
    if not half:
        return
    for who in ("daemon", "worker"):
        for what, unit in (("rss", "MiB"), ("pss", "MiB"), ("descriptors", ""), ("threads", "")):
            found = points(half, who, what)
            if values := [value for _, value in found]:
                least, most = min(values), max(values)
                print(f"{who} {what}: {least:g} to {most:g} {unit}, slope {growth(found):+.2f} {unit} an hour")
    if lives := {each["pid"] for each in half}:
        print(f"lives of the daemon in the second half: {len(lives)}")
    for who in ("daemon", "worker"):
        if used := points(half, who, "cpu"):
            (first, before), (last, after) = used[0], used[-1]
            print(f"{who} CPU: {(after - before) / max(last - first, 1):.2f} of a core")


def counted(name: str, counts: Mapping[str, int]) -> None:
    """Print counts, the greatest first."""
    print(f"{name}: {_counts(Counter(counts))}")


def write(samples: Sequence[Sample], path: Path) -> None:
    """Add samples to a file, a line each."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in samples)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"
