"""pin_user_pages: frames that stay with their address for as long as they are pinned.

After mm/gup.c of Linux 6.12.  The zero page is pinned in name only: neither references nor pins
of it are counted, so that one that is not dropped takes nothing from anybody.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from reference.mirrors.frames import Frame
from reference.mirrors.memory import PageTableEntry

from .broken import Broken
from .record import What
from .space import AddressSpace

if TYPE_CHECKING:
    from .host import Host

__all__ = ["pin_user_pages", "unpin_user_page"]


def pin_user_pages(
    host: Host,
    mm: AddressSpace,
    start: int,
    count: int,
    *,
    write: bool,
    longterm: bool,
    device: int,
) -> list[int] | int:
    """Takes mmap_lock itself.  The pages are pinned at one moment, all of them or none.

    `device` is the number of the one whose driver it is for.
    """
    host.locks.might_sleep("pin_user_pages")
    slots = range(host.slot(start), host.slot(start) + count)
    with mm.mmap_lock.reading():
        while True:
            for slot in slots:
                if not mm.handle_fault(slot, write) or not mm.areas[slot].readable:
                    host.deny()
                    return -errno.EFAULT
                if _must_unshare(mm, mm.table.get(slot), write, longterm):
                    mm.unshared(slot)
            frames = [_ready(mm, slot, write, longterm) for slot in slots]
            if None not in frames:
                break
            host.tasks.give_way("pin_user_pages")
    pinned = [frame for frame in frames if frame is not None]
    for slot, frame in zip(slots, pinned, strict=True):
        if frame is host.zero:
            host.zero_pins += 1
        else:
            frame.pins += 1
            frame.pool.get(frame)
        host.record(What.PIN, frame.number, int(longterm), mm.number, slot, device)
    host.tasks.task.granted = len(host.history)
    return [frame.number for frame in pinned]


def _must_unshare(
    mm: AddressSpace, entry: PageTableEntry | None, write: bool, longterm: bool
) -> bool:
    """`gup_must_unshare`: whether a reader's pin would be left behind by the next write.

    Who pins for a short time and only to read does not see later writes anyway; so the zero page
    and pages of files stay where they are.
    """
    if write or entry is None or mm.areas[entry.slot].shared:
        return False
    frame = entry.frame
    anonymous = frame is not mm.host.zero and (frame is None or frame.cache is None)
    return (anonymous or longterm) and mm.is_shared(entry)


def _ready(mm: AddressSpace, slot: int, write: bool, longterm: bool) -> Frame | None:
    """The frame of a slot if it can be pinned as it is."""
    entry = mm.table.get(slot)
    if entry is None or not entry.present or (write and not entry.writable):
        return None
    return None if _must_unshare(mm, entry, write, longterm) else entry.frame


def unpin_user_page(host: Host, pfn: int, *, device: int) -> None:
    """Drop one pin; the last reference frees the frame."""
    frame = host.frame(pfn)
    if not (host.zero_pins if frame is host.zero else frame.pins):
        raise Broken("P1", f"unpin_user_page of frame {pfn}, which is not pinned")
    host.record(What.UNPIN, pfn, device)
    if frame is host.zero:
        host.zero_pins -= 1
        return
    frame.pins -= 1
    host.put(frame)
