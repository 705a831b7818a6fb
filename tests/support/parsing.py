"""Parses source, undisturbed."""

from __future__ import annotations

import ast
import gc
from pathlib import Path


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file.

    CPython's parser keeps its depth in one place for all: where the garbage collector comes in between and something
    that another test left prints its traceback, which is parsed, too, the first one ends in a SystemError.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    finally:
        if collects:
            gc.enable()
