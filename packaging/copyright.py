"""Say what the package has inside beside relayd: each distribution, its version, its licence.

    python packaging/copyright.py SITE-PACKAGES

By what the distributions say of themselves; their licences' texts are beside them.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions

HEAD = """\
relayd, and what it needs of Python, in a virtual environment of its own: /usr/lib/relayd.  By what each says of itself:
"""
TAIL = """\
Their texts, where they come with them: /usr/lib/relayd/lib/python*/site-packages/*.dist-info/
"""


def main() -> None:
    """Print it."""
    found = sorted(distributions(path=[sys.argv[1]]), key=lambda each: each.name.lower())
    lines = (f"  {each.name} {each.version}: {licence(each)}\n" for each in found if each.name != "relayd")
    sys.stdout.write(f"{HEAD}\n{''.join(lines)}\n{TAIL}")


def licence(of: Distribution) -> str:
    """Return a licence in a line, by the newest of the three fields in which distributions tell it."""
    told = of.metadata
    lines = (told["License-Expression"] or told["License"] or "").strip().splitlines()
    if lines:
        return str(lines[0])
    classified = [
        each.rpartition(" :: ")[2] for each in told.get_all("Classifier", []) if each.startswith("License ::")
    ]
    return ", ".join(classified) or "see its own text"


if __name__ == "__main__":
    main()
