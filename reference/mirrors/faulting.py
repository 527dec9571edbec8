"""The faulting mirror: translations are filled by faults and gone after an invalidation.

The device has memory of its own, to and from which pages migrate, and can take pages for
exclusive access.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from reference.operations import Event, Flag, Operation
from reference.outcomes import Outcome

from .access import perform
from .calls import OK, failed
from .device import Device
from .events import skipped
from .frames import Frame, FramePool
from .manager import MemoryManager
from .memory import PageTableEntry

__all__ = ["DeviceMemory", "FaultingDevice", "Translation"]

CAPACITY = 3
"""Frames of device memory: few enough that programs fill it."""
STAGING = 2
"""Frames that eviction moves at a time when the device is closed."""
WINDOW = 2
"""Frames of device memory that its copy engine reaches; the processor must copy the others."""


class Translation(NamedTuple):
    """An entry of the device's own page table."""

    frame: Frame
    writable: bool


class DeviceMemory(FramePool):
    """A device's memory, with an engine that copies to and from it and does not reach all of it."""

    def __init__(self, device: FaultingDevice) -> None:
        super().__init__((device.number + 1) << 20, CAPACITY, device)
        self.page_size = device.page_size

    def engine(self, source: Frame, target: Frame) -> bool:
        """Copy by the device; False if that failed, and then the target has nothing of it."""
        inside = source if source.pool is self else target
        if inside.number - self._first >= WINDOW:
            return False
        super().copy(source, target)
        return True

    def copy(self, source: Frame, target: Frame) -> None:
        if not self.engine(source, target):
            super().copy(source, target)


class FaultingDevice(Device):
    """A device with page faults: `translations` is its page table."""

    memory_class = DeviceMemory

    def __init__(self, manager: MemoryManager, number: int) -> None:
        super().__init__(manager, number)
        self.translations: dict[int, Translation] = {}
        self.memory = self.memory_class(self)

    # Accesses and faults

    def access(self, op: Operation) -> Outcome:
        return perform(op, self.translate, self.page_size)

    def translate(self, slot: int, write: bool) -> Frame | None:
        translation = self.translations.get(slot)
        if translation is None or (write and not translation.writable):
            translation = self.fault_in(slot, write)
        return None if translation is None else translation.frame

    def fault_in(self, slot: int, write: bool) -> Translation | None:
        entry = self.space.fault(slot, write, self)
        if entry is None:
            return None
        self.establish(entry)
        if entry.huge is not None and entry.huge.whole:
            self._establish_huge(entry.huge.first, entry.huge.end)
        return self.translations[slot]

    def establish(self, entry: PageTableEntry) -> None:
        """Translate a slot as the processor's entry does, with no more rights (H5)."""
        if entry.frame is not None:
            self.translations[entry.slot] = Translation(entry.frame, entry.writable)

    def _establish_huge(self, first: int, end: int) -> None:
        """The pages of a huge page come at once (H10)."""
        for slot in range(first, end):
            entry = self.space.table.get(slot)
            if entry is not None and entry.present:
                self.establish(entry)

    def fault(self, op: Operation) -> Outcome:
        write = bool(op.flags & Flag.WRITE)
        for slot in range(op.page, op.page + op.pages):
            if self.fault_in(slot, write) is None:
                return failed(errno.EFAULT)
        return OK

    # Notifier

    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        self.drop(first, end)
        return True

    def drop(self, first: int, end: int) -> None:
        """Forget the translations of slots `first` to `end` (exclusive)."""
        translations = self.translations
        for slot in [slot for slot in translations if first <= slot < end]:
            del translations[slot]

    def release(self) -> None:
        self.translations.clear()

    # Device memory

    def to_device(self, op: Operation) -> Outcome:
        slots = range(op.page, op.page + op.pages)
        moved = [self.send(slot) for slot in slots]
        return OK if any(moved) else skipped(errno.EBUSY)

    def send(self, slot: int) -> bool:
        """Migrate one page; False if it cannot be migrated, and then nothing happened (G2)."""
        area = self.space.areas.get(slot)
        if area is None or not area.anonymous or not area.readable:
            return False
        entry = self.space.table.get(slot)
        if entry is not None and entry.frame is not None and entry.frame.device is self:
            return True
        if entry is not None and not _can_move(entry):
            return False
        target = self.memory.allocate()
        if target is None:
            return False
        self.migrate(slot, entry, target)
        return True

    def migrate(self, slot: int, entry: PageTableEntry | None, target: Frame) -> None:
        """Move a page's words to a frame of device memory."""
        zero = self.manager.zero
        if entry is not None and entry.frame is not None and entry.frame is not zero:
            self.manager.relocate(entry.frame, target, Event.MIGRATE)
        else:
            self._migrate_hole(slot, entry, target)

    def _migrate_hole(self, slot: int, entry: PageTableEntry | None, target: Frame) -> None:
        with self.space.invalidating(slot, slot + 1, Event.MIGRATE):
            self.clear(target)
            if entry is None:
                self.space.install(slot, target, False)
            else:
                self.space.replace(entry, target)

    def clear(self, frame: Frame) -> None:
        """Zero a frame of device memory for a page that was never touched (G4)."""
        frame.clear()

    def to_system(self, op: Operation) -> Outcome:
        moved = [
            self._to_system(entry)
            for slot in range(op.page, op.page + op.pages)
            if (entry := self.space.table.get(slot)) is not None
        ]
        return OK if any(moved) else skipped(errno.ENOENT)

    def _to_system(self, entry: PageTableEntry) -> bool:
        frame = entry.frame
        if frame is None or frame.device is not self:
            return False
        self.manager.to_system(frame)
        return True

    def drop_everything(self) -> None:
        self.release()
        for entry in list(self.space.table.values()):
            if entry.exclusive is self:
                self.space.revoke(entry)
        self.evict()

    def evict(self) -> None:
        """Empty the device's memory, through as many staging frames as there are."""
        while self.memory.live:
            for frame in list(self.memory.live.values())[:STAGING]:
                self.manager.to_system(frame)

    # Exclusive access

    def exclusive(self, op: Operation) -> Outcome:
        slots = range(op.page, op.page + op.pages)
        taken = [self._take(slot) for slot in slots]
        return OK if any(taken) else skipped(errno.EBUSY)

    def _take(self, slot: int) -> bool:
        area = self.space.areas.get(slot)
        if area is None or not area.anonymous:
            return False
        # As the processor, not as the device: a page in device memory has to come back first.
        entry = self.space.fault(slot, True)
        if entry is None:
            return False
        with self.space.invalidating(slot, slot + 1, Event.EXCLUSIVE):
            entry.exclusive = self
            entry.present = False
        self.establish(entry)
        return True


def _can_move(entry: PageTableEntry) -> bool:
    frame = entry.frame
    return (
        frame is not None
        and entry.exclusive is None
        and frame.device is None
        and not frame.pins
        and frame.cache is None
    )
