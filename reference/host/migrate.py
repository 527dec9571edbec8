"""migrate_vma: pages to device memory and back, in three phases.

After mm/migrate_device.c of Linux 6.12.  Between setup and finalize the pages are locked and
unmapped everywhere; the driver copies them and then tells which copies to use.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reference.mirrors.frames import Frame
from reference.mirrors.memory import PageTableEntry
from reference.operations import Event

from .broken import Broken
from .record import What
from .space import AddressSpace

if TYPE_CHECKING:
    from .hardware import Device
    from .host import Host

__all__ = [
    "MIGRATE_PFN_MIGRATE",
    "MIGRATE_PFN_VALID",
    "MIGRATE_PFN_WRITE",
    "MIGRATE_VMA_SELECT_DEVICE_PRIVATE",
    "MIGRATE_VMA_SELECT_SYSTEM",
    "MigrateVma",
    "migrate_pfn",
    "migrate_vma_finalize",
    "migrate_vma_pages",
    "migrate_vma_setup",
]

MIGRATE_PFN_VALID = 1 << 0
MIGRATE_PFN_MIGRATE = 1 << 1
MIGRATE_PFN_WRITE = 1 << 3
MIGRATE_PFN_SHIFT = 6
MIGRATE_VMA_SELECT_SYSTEM = 1 << 0
MIGRATE_VMA_SELECT_DEVICE_PRIVATE = 1 << 1


def migrate_pfn(frame_number: int) -> int:
    """An entry of `dst` for a frame."""
    return frame_number << MIGRATE_PFN_SHIFT | MIGRATE_PFN_VALID


@dataclass
class MigrateVma:
    """`struct migrate_vma`: bytes `start` to `end` (exclusive) of an address space.

    `src` and `dst` have an entry for each page: a frame number and flags, or 0.
    """

    mm: AddressSpace
    start: int
    end: int
    flags: int
    pgmap_owner: object | None = None
    src: list[int] = field(default_factory=list)
    dst: list[int] = field(default_factory=list)
    cpages: int = 0
    """Pages collected."""
    fault_page: int | None = None
    """In `migrate_to_ram`: the frame that the CPU's fault is about."""
    locked: dict[int, Frame] = field(default_factory=dict)
    """For the host: by place in `src`, the frames that setup has locked and unmapped."""


def frame_of(host: Host, entry: int) -> Frame:
    """The frame that an entry of `src` or `dst` names."""
    return host.frame(entry >> MIGRATE_PFN_SHIFT)


def migrate_vma_setup(host: Host, device: Device, args: MigrateVma) -> int:
    """Collect, lock and unmap pages: 0 or -EINVAL (G1, G2, G3).  Needs mmap_lock."""
    mm = args.mm
    if not mm.mmap_lock.held():
        raise Broken("G1", "migrate_vma_setup is called without mmap_lock")
    host.locks.might_sleep("migrate_vma_setup")
    first, end = host.slot(args.start), host.slot(args.end - 1) + 1
    area = mm.areas.get(first)
    inside = 0 <= first < end <= host.geometry.pages
    inside = inside and all(mm.areas.get(slot) == area for slot in range(first, end))
    if not inside or area is None or not area.anonymous:
        host.record(What.SETUP, device.number, mm.number, first, -errno.EINVAL)
        return -errno.EINVAL
    places = range(end - first)
    args.src, args.dst = [0] * len(places), [0] * len(places)
    with mm.invalidating(first, end, Event.MIGRATE, args.pgmap_owner):
        for place, slot in enumerate(range(first, end)):
            args.src[place] = _collect(host, args, place, slot, area.readable)
        mm.changed(first, end, Event.MIGRATE)
    _unmap_elsewhere(host, args)
    args.cpages = sum(bool(entry & MIGRATE_PFN_MIGRATE) for entry in args.src)
    frames = (args.locked[place].number if place in args.locked else 0 for place in places)
    host.record(What.SETUP, device.number, mm.number, first, 0, *frames)
    host.tasks.point("migrate_vma_setup")
    return 0


def _collect(host: Host, args: MigrateVma, place: int, slot: int, readable: bool) -> int:
    entry = args.mm.table.get(slot)
    if entry is None or entry.frame is host.zero:
        selected = args.flags & MIGRATE_VMA_SELECT_SYSTEM and readable
        return MIGRATE_PFN_MIGRATE if selected else 0
    frame = entry.frame
    if frame is None or entry.migrating or entry.exclusive is not None or frame.locked is not None:
        return 0
    if not _selected(args, frame):
        return 0
    frame.locked = args
    frame.pool.get(frame)
    args.locked[place] = frame
    _make_migrating(entry, True)
    write = MIGRATE_PFN_WRITE if entry.writable else 0
    return migrate_pfn(frame.number) | MIGRATE_PFN_MIGRATE | write


def _selected(args: MigrateVma, frame: Frame) -> bool:
    device = frame.device
    if device is None:
        return bool(args.flags & MIGRATE_VMA_SELECT_SYSTEM)
    owned = getattr(device, "owner", None) is args.pgmap_owner
    return bool(args.flags & MIGRATE_VMA_SELECT_DEVICE_PRIVATE) and owned


def _make_migrating(entry: PageTableEntry, migrating: bool) -> None:
    entry.migrating = migrating
    if migrating:
        entry.present = False


def _unmap_elsewhere(host: Host, args: MigrateVma) -> None:
    """Unmap collected pages from other places too; restore those that somebody holds (G2)."""
    first = host.slot(args.start)
    for place, frame in list(args.locked.items()):
        told = range(first + place, first + place + 1)
        with host.every_mapping(frame, Event.CLEAR, but=args.mm, told=told) as entries:
            for entry in entries:
                if not entry.migrating:
                    _make_migrating(entry, True)
                    host.spaces_of(entry).changed(entry.slot, entry.slot + 1, Event.CLEAR)
        ours = len(frame.mappings) + (frame.cache is not None) + 1
        if frame.references > ours:
            args.src[place] = 0
            _restore(host, args, place)


def _restore(host: Host, args: MigrateVma, place: int) -> None:
    """Let the page's entries lead to it again and unlock it."""
    frame = args.locked.pop(place)
    for entry in frame.mappings:
        _make_migrating(entry, False)
        host.spaces_of(entry).set_present(entry)
    frame.locked = None
    host.put(frame)


def migrate_vma_pages(host: Host, device: Device, args: MigrateVma) -> None:
    """Let entries lead to the driver's copies; where that cannot be, MIGRATE is cleared (G5)."""
    first = host.slot(args.start)
    for place, source in enumerate(args.src):
        target = args.dst[place]
        if not source & MIGRATE_PFN_MIGRATE or not target & MIGRATE_PFN_VALID:
            args.src[place] &= ~MIGRATE_PFN_MIGRATE
        elif not source & MIGRATE_PFN_VALID:
            _insert(host, args, place, first + place)
        else:
            _switch(host, args, place)
    told = (_told(*entries) for entries in zip(args.src, args.dst, strict=True))
    host.record(What.PAGES, device.number, args.mm.number, first, *told)
    host.tasks.point("migrate_vma_pages")


def _told(source: int, target: int) -> int:
    """Entries of `src` and `dst` as in the event record: the copy, negative if it is not used."""
    frame = target >> MIGRATE_PFN_SHIFT
    return frame if source & MIGRATE_PFN_MIGRATE else -frame


def _insert(host: Host, args: MigrateVma, place: int, slot: int) -> None:
    """A page for a hole, unless somebody was quicker."""
    mm, frame = args.mm, frame_of(host, args.dst[place])
    with mm.invalidating(slot, slot + 1, Event.MIGRATE, args.pgmap_owner):
        entry, area = mm.table.get(slot), mm.areas.get(slot)
        if area is None or (entry is not None and entry.frame is not host.zero):
            args.src[place] &= ~MIGRATE_PFN_MIGRATE
            return
        if entry is None:
            mm.install(slot, frame, area.writable)
        else:
            mm.replace(entry, frame)
            entry.writable = area.writable
        mm.changed(slot, slot + 1, Event.MIGRATE)


def _switch(host: Host, args: MigrateVma, place: int) -> None:
    frame, target = args.locked.get(place), frame_of(host, args.dst[place])
    if frame is None or not frame.mappings:
        args.src[place] &= ~MIGRATE_PFN_MIGRATE
        return
    entries = list(frame.mappings)
    host.move_frame(frame, target)
    for entry in entries:
        _make_migrating(entry, True)
    target.locked = args


def migrate_vma_finalize(host: Host, device: Device, args: MigrateVma) -> None:
    """Map what has moved, restore what has not, unlock all."""
    host.record(What.FINALIZE, device.number, args.mm.number, host.slot(args.start))
    device.moved += sum(bool(source & MIGRATE_PFN_MIGRATE) for source in args.src)
    for place, source in enumerate(args.src):
        frame = args.locked.get(place)
        target = frame_of(host, args.dst[place]) if args.dst[place] else None
        if frame is not None and source & MIGRATE_PFN_MIGRATE and target is not None:
            _settle(host, args, place, frame, target)
        else:
            if frame is not None:
                _restore(host, args, place)
            if target is not None and target.references == 0:
                host.free_unused(target)
    host.tasks.point("migrate_vma_finalize")


def _settle(host: Host, args: MigrateVma, place: int, frame: Frame, target: Frame) -> None:
    del args.locked[place]
    for entry in target.mappings:
        _make_migrating(entry, False)
        host.spaces_of(entry).set_present(entry)
    target.locked = frame.locked = None
    host.put(frame)
