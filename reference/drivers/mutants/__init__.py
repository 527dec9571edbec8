"""Driver mutants: correct drivers with one bug each that a real one has had.

Each is a small subclass; a module has the mutants of one class of bugs.
"""

from __future__ import annotations

from . import (
    cached,
    context,
    failures,
    kept_access,
    life_cycle,
    pairing,
    permissions,
    pins,
    progress,
    races,
    ranges,
)
from .mutant import BASES, DRIVER_MUTANTS, DriverMutant

__all__ = [
    "BASES",
    "DRIVER_MUTANTS",
    "DriverMutant",
    "cached",
    "context",
    "failures",
    "kept_access",
    "life_cycle",
    "pairing",
    "permissions",
    "pins",
    "progress",
    "races",
    "ranges",
]
