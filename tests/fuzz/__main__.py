"""`python -m tests.fuzz TARGET... [--seconds N]`: atheris on each target in turn; stops at the first that fails.

Needs `pip install 'relayd[fuzz]'`.  What was found worth keeping is under build/fuzz/TARGET, so that a later run goes
on from there; an input that failed is build/fuzz/TARGET.failed-*, and `python -m tests.fuzz TARGET --replay FILE` calls
the target with it, without atheris.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parents[2] / "build" / "fuzz"
TARGETS = (
    *("replies", "drop_files", "addresses", "notifications", "configurations", "notes", "workers", "control"),
    *("recovery", "policies"),
)
LONGEST = 16_384  # octets of one input
SECONDS_FOR_ONE = 20  # more than this for one input is a failure


def main() -> int:
    """Run the targets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}; all if none is named")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.replay:
        target(asked.targets[0]).one(asked.replay.read_bytes())
        return 0
    if asked.here:
        fuzz(asked.targets[0], asked.seconds)
    for name in asked.targets or TARGETS:
        print(f"== {name}, {asked.seconds} s", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", name, f"--seconds={asked.seconds}", "--here"]
        if code := subprocess.run(command, check=False).returncode:
            return code
    return 0


def target(name: str) -> Any:
    """Return the module of a target."""
    if name not in TARGETS:
        raise SystemExit(f"no such target: {name}; there are {', '.join(TARGETS)}")
    return importlib.import_module(f"tests.fuzz.{name}")


def fuzz(name: str, seconds: int) -> None:
    """Let atheris call a target; ends the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["relayd", "tests.fuzz"]):
        one, words = target(name).one, target(name).WORDS
    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    dictionary = KEPT / f"{name}.words"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in words if word), encoding="ascii")
    bounds = [f"-max_total_time={seconds}", f"-timeout={SECONDS_FOR_ONE}", f"-max_len={LONGEST}"]
    places = [f"-dict={dictionary}", f"-artifact_prefix={KEPT / name}.failed-", str(corpus)]
    atheris.Setup([sys.argv[0], *bounds, "-print_final_stats=1", *places], one)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in word[:64])


if __name__ == "__main__":
    sys.exit(main())
