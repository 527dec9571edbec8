"""Addresses as a driver sees them, and ranges of them that change.

A page slot of the arena is `page_size` bytes of every process's address space, from `BASE` on.
"""

from __future__ import annotations

from typing import NamedTuple

from reference.operations import Event

__all__ = ["BASE", "ULONG_MAX", "Range"]

BASE = 0x7F00_0000_0000
"""Address of slot 0."""
ULONG_MAX = (1 << 64) - 1


class Range(NamedTuple):
    """`struct mmu_notifier_range`: bytes from `start` to `end` (exclusive) of an address space."""

    number: int
    """Unique in a run."""
    mm: object
    start: int
    end: int
    event: Event | int
    owner: object = None
    blockable: bool = True
