"""Correct in-memory mirrors, one of each kind, and mutants with one known bug each.

They are candidates like any other, and know nothing of the last-writer model: a small memory
manager with frames, page tables and notifiers, and devices that use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .mirror import Mirror
from .mutants import MUTANTS, Mutant
from .mutants.mutant import BASES

__all__ = ["MIRRORS", "MUTANTS", "Mirror", "Mutant"]

MIRRORS: Mapping[str, Callable[[], Mirror]] = BASES
"""Factories of the correct mirrors, by name."""
