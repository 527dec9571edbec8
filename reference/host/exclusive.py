"""Pages that a device has for itself, until the CPU touches them (X1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reference.operations import Event

from .broken import Broken
from .record import What
from .space import AddressSpace

if TYPE_CHECKING:
    from .hardware import Device
    from .host import Host

__all__ = ["make_exclusive"]


def make_exclusive(
    host: Host, device: Device, mm: AddressSpace, start: int, end: int, owner: object
) -> list[int]:
    """Per page its frame number, or 0 where it cannot be had."""
    if not mm.mmap_lock.held():
        raise Broken("X1", "make_device_exclusive_range is called without mmap_lock")
    first, last = host.slot(start), host.slot(end - 1) + 1
    found = [_take(host, mm, slot, owner) for slot in range(first, last)]
    host.record(What.EXCLUSIVE, device.number, mm.number, first, *found)
    host.tasks.point("make_device_exclusive_range")
    return found


def _take(host: Host, mm: AddressSpace, slot: int, owner: object) -> int:
    area = mm.areas.get(slot)
    if area is None or not area.anonymous or not mm.handle_fault(slot, True):
        return 0
    with mm.invalidating(slot, slot + 1, Event.EXCLUSIVE, owner):
        entry = mm.table.get(slot)
        frame = None if entry is None else entry.frame
        if entry is None or frame is None or not (entry.present and entry.writable):
            return 0
        entry.exclusive = owner
        entry.present = False
        mm.changed(slot, slot + 1, Event.EXCLUSIVE)
        return frame.number
