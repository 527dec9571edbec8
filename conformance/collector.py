"""The garbage collector in a process that runs one program after the other."""

from __future__ import annotations

import gc

__all__ = ["rest"]

_THRESHOLD = 20_000
"""Objects that are there more than at the last time, before the youngest are looked through.
A large page that may hold several values is some ten thousand, and none of them is in a cycle."""


def rest() -> None:
    """Have it look less often, and never through what is there now: what was imported stays."""
    gc.freeze()
    gc.set_threshold(_THRESHOLD)
