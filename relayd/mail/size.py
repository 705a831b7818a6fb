"""Sizes in words, as a configuration has them."""

from __future__ import annotations

import re
from typing import Any

_SIZE = re.compile(r"(\d+)(?:(Ki|Mi|Gi|k|M|G)?B)?")
_FACTORS = {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}


def parse_size(value: Any) -> int:
    """Return the octets that `"512KiB"`, `"50MiB"` or a number name; ValueError for anything else."""
    if type(value) is int and value > 0:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)) and int(match[1]) > 0:
        return int(match[1]) * _FACTORS[match[2]]
    raise ValueError(f'must be a size as "512KiB", "50MiB" or a number of octets, not {value!r}')
