"""Mutants: correct mirrors with one bug each that a real mirror has had.

Each is a small class in place of a part of its base; a module has the mutants of one or two
classes of bugs.
"""

from __future__ import annotations

from . import (
    cached,
    kept_access,
    life_cycle,
    migration,
    missed_events,
    permissions,
    processes,
    ranges,
    snapshots,
)
from .mutant import MUTANTS, Mutant

__all__ = [
    "MUTANTS",
    "Mutant",
    "cached",
    "kept_access",
    "life_cycle",
    "migration",
    "missed_events",
    "permissions",
    "processes",
    "ranges",
    "snapshots",
]
