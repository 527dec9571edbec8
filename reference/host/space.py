"""Address spaces whose faults, brackets and pins other tasks may come between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reference.mirrors.files import PageCache
from reference.mirrors.frames import Frame
from reference.mirrors.memory import AddressSpace as Tables
from reference.mirrors.memory import Area, PageTableEntry
from reference.operations import Event

from .locks import ReadWriteSemaphore
from .notifiers import Subscriptions
from .ranges import ULONG_MAX, Range
from .record import What
from .states import is_watched

if TYPE_CHECKING:
    from .hardware import Device
    from .host import Host

__all__ = ["AddressSpace"]


class AddressSpace(Tables):
    """`struct mm_struct`.  `users` is zero from the start of its exit on."""

    def __init__(self, host: Host, number: int) -> None:
        super().__init__(host, number)
        self.host = host
        self.users = 1
        self.mmap_lock = ReadWriteSemaphore(host.locks, "mmap_lock")
        self.subscriptions = Subscriptions(host, self)
        self.sharing: list[Device] = []
        """Devices that walk this page table."""
        self._cleared: list[range] = []
        """Slots of which such devices find nothing, until a change is done."""

    def maps(self, slot: int, file: PageCache, pages: range) -> bool:
        """Whether one of these pages of a file is mapped at a slot."""
        area = self.areas.get(slot)
        return area is not None and area.file is file and slot + area.delta in pages

    # Faults

    def reach(self, slot: int, write: bool) -> Frame | None:
        """The frame that the processor reaches at a slot; None is SIGSEGV or SIGBUS.

        Nothing comes between finding the frame and the return.
        """
        while True:
            entry = self.table.get(slot)
            if entry is not None and entry.present and (entry.writable or not write):
                return entry.frame
            with self.mmap_lock.reading():
                if not self.handle_fault(slot, write):
                    return None

    def handle_fault(self, slot: int, write: bool, owner: object | None = None) -> bool:
        """`handle_mm_fault`, with mmap_lock held; False if area or file forbid the access.

        Pages in device memory of `owner` stay where they are.
        """
        answer = None
        while answer is None:
            answer = self._fault_step(slot, write, owner)
        return answer

    def _fault_step(self, slot: int, write: bool, owner: object | None) -> bool | None:
        """One step of a fault, after which all may have changed; None if it takes another."""
        host, area, entry = self.host, self.areas.get(slot), self.table.get(slot)
        if area is None or not area.permits(write):
            return host.deny()
        if area.file is not None and host.is_shrinking(area.file):
            host.await_file(area.file)
            return None
        if entry is None:
            return self._fault_missing(slot, area, write) is not None or host.deny()
        if not self._is_here(entry, owner):
            return None if self._fetch(entry) else False
        if write and not entry.writable:
            self._write_fault(entry, area)
            return None
        self._set_present(entry)
        return True

    def _is_here(self, entry: PageTableEntry, owner: object | None) -> bool:
        """Whether the page lies where processor or owner can use it."""
        away = entry.migrating or entry.swap or entry.exclusive is not None
        return not away and not _foreign(entry, owner)

    def _fetch(self, entry: PageTableEntry) -> bool:
        """Take a step towards having the page here; False is SIGBUS."""
        if entry.migrating:
            # Whoever zaps it meanwhile takes it away from those who would restore it.
            self.host.locks.block(
                None,
                lambda: not entry.migrating or self.table.get(entry.slot) is not entry,
                "a migration entry",
            )
        elif entry.swap:
            self._swap_in(entry)
        elif entry.exclusive is not None:
            self.revoke(entry)
        else:
            return self.host.bring_home(entry)
        return True

    def _write_fault(self, entry: PageTableEntry, area: Area) -> None:
        """Give the right to write, or take one step towards it."""
        if area.shared or not self.is_shared(entry):
            entry.writable = True
            return
        self._unshare(entry)

    def _unshare(self, entry: PageTableEntry) -> None:
        """Give a private page a frame of its own, unless all has changed meanwhile."""
        slot, old = entry.slot, entry.frame
        with self.invalidating(slot, slot + 1, Event.CLEAR):
            here = self.table.get(slot) is entry and entry.frame is old and not entry.migrating
            # Somebody else may have been here, and pinned the frame that is now its own.
            if here and old is not None and self.is_shared(entry):
                self.replace(entry, self.host.duplicate(old))
                self.changed(slot, slot + 1, Event.CLEAR)

    def replace(self, entry: PageTableEntry, frame: Frame) -> None:
        old, area = entry.frame, self.areas.get(entry.slot)
        super().replace(entry, frame)
        shared = area is None or area.shared
        if not shared and old is not None and old.cache is not None and frame.cache is None:
            self.host.record(What.COPIED, self.number, entry.slot)

    def set_present(self, entry: PageTableEntry) -> None:
        """Let the processor use an entry again, as far as that can be."""
        if entry.slot in self.areas:
            self._set_present(entry)

    def revoke(self, entry: PageTableEntry) -> None:
        """Take exclusive access to a page away, unless the page has moved meanwhile."""
        slot = entry.slot
        with self.invalidating(slot, slot + 1, Event.EXCLUSIVE):
            if self.table.get(slot) is entry:
                entry.exclusive = None
                self.changed(slot, slot + 1, Event.EXCLUSIVE)

    def unshared(self, slot: int) -> bool:
        """Give a private page a frame that no other entry has; False if it took a while."""
        entry = self.table.get(slot)
        if entry is None or self.areas[slot].shared or not self.is_shared(entry):
            return True
        self._unshare(entry)
        return False

    def clear_soft_dirty(self) -> None:
        """Have the first write to each page seen anew: `clear_refs_write` of fs/proc/task_mmu.c.

        The bits themselves nobody here reads: what counts is that the next write faults.
        """
        with self.mmap_lock.writing():
            with self.invalidating_all(Event.SOFT_DIRTY):
                for entry in self.table.values():
                    if is_watched(entry):
                        entry.writable = False
                self.changed(0, self.host.geometry.pages, Event.SOFT_DIRTY)
            self.host.record(What.TRACKED, self.number)

    def make_soft_dirty(self, slot: int) -> None:
        """Count a page as written (E.SOFT_DIRTY)."""
        self.host.record(What.SOFT_DIRTY, self.number, slot)

    # Notifiers

    def invalidate_range_start(
        self, first: int, end: int, event: Event, blockable: bool = True
    ) -> bool:
        raise NotImplementedError  # brackets are opened with `invalidating`

    def invalidating(  # type: ignore[override]
        self, first: int, end: int, event: Event, owner: object | None = None
    ) -> Bracket:
        range_ = self.host.range_of(self, first, end, event, owner)
        return Bracket(self, range_, range(first, end))

    def invalidating_all(self, event: Event) -> Bracket:
        """Likewise of every address, those outside the arena too."""
        range_ = self.host.new_range(self, 0, ULONG_MAX, event)
        return Bracket(self, range_, range(self.host.geometry.pages))

    # TLBs that share the page table

    def clear(self, slots: range) -> None:
        """Clear entries and tell secondary TLBs, under the page table lock (T2).

        The lock is held until `set`: devices that walk meanwhile wait for it.  Everybody else
        finds the entries as they were until they change, which is at one moment.
        """
        host = self.host
        self._cleared.append(slots)
        self.subscriptions.invalidate_secondary_tlbs(
            host.address(slots.start), host.address(slots.stop)
        )
        if self.sharing:
            host.record(What.CLEARED, self.number, slots.start, slots.stop)

    def set(self, slots: range) -> None:
        """Give the lock back: entries are what they are now."""
        self._cleared.remove(slots)

    def is_clear(self, slot: int) -> bool:
        """Whether an entry is about to change, so that a device does not find it."""
        return any(slot in slots for slots in self._cleared)

    def changed(self, first: int, end: int, event: Event) -> None:
        """Page table entries of these slots have just changed."""
        self.host.changed(self, first, end, event)


class Bracket:
    """Start and end of an invalidation around a change of page table entries."""

    def __init__(self, space: AddressSpace, range_: Range, slots: range) -> None:
        self._space = space
        self._range = range_
        self._slots = slots

    def __enter__(self) -> None:
        self._space.host.tasks.point("invalidate_range_start")
        self._space.subscriptions.start(self._range)
        self._space.host.tasks.point("page table change")
        self._space.clear(self._slots)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._space.set(self._slots)
            self._space.host.tasks.point("invalidate_range_end")
            self._space.subscriptions.end(self._range)


def _foreign(entry: PageTableEntry, owner: object | None) -> bool:
    """Whether the page lies in the memory of a device of another owner."""
    frame = entry.frame
    if frame is None or frame.device is None:
        return False
    return owner is None or getattr(frame.device, "owner", frame.device) is not owner
