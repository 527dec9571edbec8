"""Correct in-memory mirrors, one of each kind, and mutants with one known bug each.

They are candidates like any other, and know nothing of the last-writer model: a small memory
manager with frames, page tables and notifiers, and devices that use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .mirror import Caching, Faulting, Mirror, Refcounting, Registering

__all__ = ["MIRRORS", "Mirror"]

MIRRORS: Mapping[str, Callable[[], Mirror]] = {
    "faulting": Faulting,
    "refcounting": Refcounting,
    "registration": Registering,
    "caching": Caching,
}
"""Factories of the correct mirrors, by name."""
