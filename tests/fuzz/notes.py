"""A notes file of any octets: it is read as what its whole lines say, or not believed; never a failed start."""

from __future__ import annotations

import tempfile
from pathlib import Path

from relayd.mail.message import new_id
from relayd.spool.notes import Notes, noted_by, read
from tests.fuzz.choices import Choices
from tests.submission.support import NOW

BOOT = "6f1c2f6e-0000-4000-8000-000000000000"
WORDS = (
    *(b"begun ", b"ending ", b"\n", b" ", b"\0", b"1", b"-1", b"99999999999999999999", b"0x10", b"1_000", b"\xff"),
    *(BOOT.encode(), new_id(NOW, 1).encode(), b"begun 7 01J8ZK0000AAAAAAAAAA\n", b"9" * 5000),
)
_DIRECTORY = tempfile.TemporaryDirectory(prefix="relayd-fuzz-")


def one(octets: bytes) -> None:
    """See the module."""
    choices = Choices(octets)
    path = Path(_DIRECTORY.name) / "notes.X"
    believed = choices.chance()
    damage = choices.mixed(WORDS, 40)
    path.write_bytes((BOOT.encode() + b"\n" if believed else b"") + damage)
    found = read(path, BOOT)
    assert noted_by([path], BOOT) == found
    if found is not None:
        assert found.ending <= found.begun
        assert all(isinstance(lease, int) and 0 <= lease < 2**63 for lease, _ in found.begun)
    written(choices, path)


def written(choices: Choices, path: Path) -> None:
    """What was noted is read again, however small the file is that it must be begun anew in."""
    notes = Notes(path, BOOT, size=64 + choices.number(200))
    noted: dict[tuple[int, str], bool] = {}
    for _ in range(choices.number(12)):
        claimed = (choices.number(5), new_id(NOW, choices.number(5)))
        match choices.number(3):
            case 0:
                notes.beginning(*claimed)
                noted[claimed] = False
            case 1:
                notes.ending(*claimed)
                noted[claimed] = True
            case _:
                notes.over([claimed])
                noted.pop(claimed, None)
    notes.close()
    found = read(path, BOOT)
    assert found is not None
    assert set(noted) <= found.begun
    assert {claimed for claimed, ending in noted.items() if ending} <= found.ending
