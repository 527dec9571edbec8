"""What pages of an address space are like, a letter for each, for the event record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reference.mirrors.memory import Area, PageTableEntry

if TYPE_CHECKING:
    from .space import AddressSpace

__all__ = ["is_watched", "rights", "states", "tracked"]


def states(space: AddressSpace, first: int, end: int) -> str:
    """Letters of `reference.record.STATES` for slots `first` to `end` (exclusive)."""
    return "".join(
        _state(space, area, space.table.get(slot))
        if (area := space.areas.get(slot)) is not None
        else "-"
        for slot in range(first, end)
    )


def _state(space: AddressSpace, area: Area, entry: PageTableEntry | None) -> str:
    if entry is None:
        return "h"
    frame = entry.frame
    if frame is None:
        return "s"
    if entry.exclusive is not None:
        return "x"
    if frame.device is not None:
        return "d"
    if frame.pins:
        return "l"
    if entry.huge is not None and entry.huge.whole:
        return "H"
    if frame is space.manager.zero:
        return "h"
    return "S" if area.shared or space.is_shared(entry) else "p"


def rights(space: AddressSpace, first: int, end: int) -> str:
    """The most that a device may do at each slot: `w` write, `r` only read, `-` neither."""
    return "".join(_rights(space, slot) for slot in range(first, end))


def tracked(space: AddressSpace, first: int, end: int) -> str:
    """The most that a device may do unseen once soft-dirty bits are clear, as `rights` has it.

    A page that is not there keeps its bit where no write-protection watches it, so that nobody
    is asked to see writes to it; and bits of pinned pages are not cleared.
    """
    return "".join(
        "r" if right == "w" and is_watched(space.table.get(slot)) else right
        for slot, right in enumerate(rights(space, first, end), first)
    )


def is_watched(entry: PageTableEntry | None) -> bool:
    """Whether clearing soft-dirty bits write-protects an entry, as `clear_soft_dirty` has it."""
    if entry is None or entry.migrating or entry.exclusive is not None:
        return False
    frame = entry.frame
    return frame is not None and frame.device is None and not frame.pins


def _rights(space: AddressSpace, slot: int) -> str:
    area, entry = space.areas.get(slot), space.table.get(slot)
    if area is None or not area.readable:
        return "-"
    if not area.writable:
        return "r"
    # A page that a fork has left shared is to be copied before anybody writes it.
    copied = area.shared or entry is None or entry.writable or not space.is_shared(entry)
    return "w" if copied else "r"
