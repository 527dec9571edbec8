"""The device's hardware: page tables, a TLB, memory of its own, DMA addresses, and jobs.

The hardware is not under test.  It does what its tables say, with the two freedoms that real
hardware has: it keeps translations until they are flushed, and an access that has fetched its
translation may reach memory later.
"""

from __future__ import annotations

import errno
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from reference.mirrors.access import FAULT, is_write
from reference.mirrors.access import perform as perform_on
from reference.mirrors.frames import Frame, FramePool
from reference.mirrors.memory import PageTableEntry
from reference.operations import WORD, Kind, Operation
from reference.outcomes import Outcome, Status

from .answers import errno_of
from .record import What
from .space import AddressSpace
from .tasks import DYING

if TYPE_CHECKING:
    from reference.drivers.driver import Driver

    from .host import Host

__all__ = ["DEVICE_FRAMES", "LOCAL", "Device", "DeviceEntry", "Job", "pieces"]

DEVICE_FRAMES = 4
"""Frames in a device's memory: few, so that it is full at times."""
LOCAL = 1 << 62
"""Added to the number of a frame of its own memory this is the address that a device uses."""
SHARED = 1 << 61
"""Added to the number of a frame this is what a walk of the process's page table leads to."""


class DeviceEntry(NamedTuple):
    """An entry of a device's page table."""

    address: int
    """DMA address, or `LOCAL` plus a frame number."""
    writable: bool


class Job:
    """Accesses that the device does by itself once they are submitted."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.accesses: list[tuple[int, Operation]] = []
        """Each with its number in the program."""
        self.outcomes: list[Outcome] = []
        self.submitted = False
        self.done = False
        """Its fence is signalled."""
        self.private: object = None
        """For the driver."""

    @property
    def keys(self) -> list[int]:
        """The registrations that it uses."""
        return sorted({operation.key for _, operation in self.accesses})


class Device:
    """One device.  `tables` has a page table for each key; 0 is the one of the process."""

    def __init__(self, host: Host, number: int) -> None:
        self.host = host
        self.number = number
        self.owner: object = self
        """Who owns its memory; drivers of several devices may set the same for all."""
        self.driver: Driver
        self.mm: AddressSpace | None = None
        self.moved = 0
        """Pages that its driver's migrations have moved, in either direction."""
        self.memory = FramePool((number + 1) << 20, DEVICE_FRAMES, device=self)
        self.tables: dict[int, dict[int, DeviceEntry]] = {0: {}}
        self.dma: dict[int, Frame] = {}
        self.jobs: dict[int, Job] = {}
        self._tlb: dict[tuple[int, int], DeviceEntry] = {}
        self._in_flight: list[int] = []
        self._young: set[tuple[int, int]] | None = None
        """Table and slot of entries whose accessed bit is set; None if there are no such bits."""
        self.shared: AddressSpace | None = None
        """The address space whose page table it walks in place of table 0."""

    # For drivers: tables and TLB

    def map(self, table: int, slot: int, address: int, writable: bool) -> None:
        """Write a page table entry.  One that replaces another needs a flush."""
        self.host.record(What.DEVICE_MAP, self.number, table, slot, address, int(writable))
        self.tables.setdefault(table, {})[slot] = DeviceEntry(address, writable)
        self._forget(table, slot)

    def unmap(self, table: int, slot: int) -> None:
        """Clear a page table entry; the TLB may still have it."""
        if self.tables.get(table, {}).pop(slot, None) is not None:
            self.host.record(What.DEVICE_UNMAP, self.number, table, slot)
            self._forget(table, slot)

    def flush(self, first: int, end: int) -> None:
        """Invalidate the TLB and wait, without sleeping, for accesses through it to be done."""
        for place in [place for place in self._tlb if first <= place[1] < end]:
            del self._tlb[place]
        self.host.record(What.FLUSH, self.number, first, end)
        self.host.tasks.point("device TLB flush")
        self.host.tasks.wait_until(
            lambda: not any(first <= slot < end for slot in self._in_flight), "a device TLB flush"
        )

    # For drivers: accessed bits.  The TLB sets one when it takes an entry from a table: what it
    # has already does not set it again.

    def keep_young(self) -> None:
        """Have accessed bits in the page tables, clear to begin with."""
        if self._young is None:
            self._young = set()
            self.host.record(What.KEEP_YOUNG, self.number)

    def test_young(self, table: int, slot: int) -> bool:
        """Whether an entry's accessed bit is set."""
        return self._young is not None and (table, slot) in self._young

    def clear_young(self, table: int, slot: int) -> bool:
        """Clear an entry's accessed bit; whether it was set.  The TLB keeps what it has."""
        young = self.test_young(table, slot)
        self._forget(table, slot)
        self.host.record(What.CLEAR_YOUNG, self.number, table, slot, int(young))
        return young

    def _forget(self, table: int, slot: int) -> None:
        if self._young is not None:
            self._young.discard((table, slot))

    # For drivers: the process's page table in place of one of its own, as by a PASID

    def share(self, mm: AddressSpace) -> None:
        """Walk the page table of an address space from now on."""
        self.unshare()
        self.shared = mm
        mm.sharing.append(self)
        self.host.record(What.SHARE, self.number, mm.number)

    def unshare(self) -> None:
        """Walk it no more; the TLB keeps what it has."""
        if self.shared is not None:
            self.shared.sharing.remove(self)
            self.shared = None
            self.host.record(What.UNSHARE, self.number)

    # For drivers: DMA addresses

    def dma_map(self, frame: Frame) -> int:
        # The lowest free one: who uses an address after its end meets another page.
        address = next(number for number in count(1) if number not in self.dma)
        self.dma[address] = frame
        self.host.record(What.DMA_MAP, self.number, address, frame.number)
        return address

    def dma_unmap(self, address: int) -> bool:
        """False if the address is not mapped."""
        self.host.record(What.DMA_UNMAP, self.number, address)
        return self.dma.pop(address, None) is not None

    # Accesses

    def access(self, index: int, operation: Operation) -> Outcome:
        """Do an access piece by piece, each at one moment, up to the first that is denied.

        One that its key does not allow as a whole is denied before anything is done.
        """
        data: list[bytes] = []
        done = 0
        cut = pieces(operation, self.host.geometry.page_size)
        if operation.key and not all(self._translate(piece) for piece in cut):
            return self.denied(index, operation)
        for piece in cut:
            outcome = self._piece(index, piece)
            data.append(outcome.data)
            if outcome.status != Status.OK:
                return Outcome(Status.FAULT, errno.EFAULT, done, b"".join(data))
            done += piece.length
        return Outcome(Status.OK, 0, done, b"".join(data))

    def _piece(self, index: int, piece: Operation) -> Outcome:
        self.host.tasks.task.forget()
        while True:
            self.host.tasks.point("device access")
            entry = self._translate(piece)
            if entry is not None:
                return self._through(entry, index, piece)
            if not self._fault(piece.page, is_write(piece)):
                return self.denied(index, piece)

    def _translate(self, piece: Operation) -> DeviceEntry | None:
        """The entry for an access within one page; None if there is none that allows it."""
        write = is_write(piece)
        entry = self._tlb.get((piece.key, piece.page))
        if self.shared is not None and not piece.key:
            # The process's table may allow by now what it did not: nobody flushes for that.
            if entry is None or (write and not entry.writable):
                entry = self._walk_shared(piece.page)
        elif entry is None:
            entry = self._walk(piece.key, piece.page)
        return entry if entry is not None and (entry.writable or not write) else None

    def _walk(self, table: int, slot: int) -> DeviceEntry | None:
        """Take an entry from a page table of the device's own."""
        entry = self.tables.get(table, {}).get(slot)
        if entry is None:
            return None
        self.host.record(What.WALK, self.number, table, slot)
        self._tlb[table, slot] = entry
        if self._young is not None:
            self._young.add((table, slot))
        return entry

    def _walk_shared(self, slot: int) -> DeviceEntry | None:
        """Take an entry from the process's page table, after any change that is under way."""
        self.host.tasks.wait_until(
            lambda: self.shared is None or not self.shared.is_clear(slot), "the page table lock"
        )
        found = None if self.shared is None else self.shared.table.get(slot)
        if found is None or found.frame is None or not found.present:
            return None
        entry = self._tlb[0, slot] = DeviceEntry(SHARED | found.frame.number, found.writable)
        number, writable = found.frame.number, int(found.writable)
        self.host.record(What.SHARED_WALK, self.number, slot, number, writable)
        return entry

    def _fault(self, slot: int, write: bool) -> bool:
        """Whether the driver says that the access may be tried again."""
        if not self.driver.page_faults:
            return False
        return errno_of(self.driver.fault(self.host.address(slot), write)) == 0

    def _through(self, entry: DeviceEntry, index: int, piece: Operation) -> Outcome:
        host, slot = self.host, piece.page
        host.record(What.FETCH, self.number, piece.key, slot)
        self._in_flight.append(slot)
        host.tasks.point("device access in flight")
        self._in_flight.remove(slot)
        frame = self.frame_at(entry.address)
        number = -1 if frame is None else frame.number
        host.record(What.ACCESS, self.number, piece.key, slot, number, int(is_write(piece)))
        if frame is None:
            return self.denied(index, piece)
        outcome = perform_on(piece, lambda _slot, _write: frame, host.geometry.page_size)
        if not piece.job:
            host.effect(index, piece, outcome)
        return outcome

    def frame_at(self, address: int) -> Frame | None:
        """The frame that an address leads to; None if it leads nowhere."""
        if address & LOCAL:
            return self.memory.live.get(address - LOCAL)
        if address & SHARED:
            return self.host.frame(address - SHARED)
        return self.dma.get(address)

    def denied(self, index: int, piece: Operation) -> Outcome:
        """An access that is not allowed: it took effect when that was found."""
        if not piece.job:
            self.found(self.host.tasks.task.denied, index, piece, FAULT)
        return FAULT

    def found(self, place: int | None, index: int, operation: Operation, outcome: Outcome) -> None:
        """An operation had effect when that was found out: at a place in the history, or now.

        While the process is being torn down any access may be denied, which tells nothing.
        """
        if place is not None and place != DYING:
            self.host.effect_at(place, index, operation, outcome)
        elif outcome.status == Status.OK or not self.dying():
            self.host.effect(index, operation, outcome)

    def dying(self) -> bool:
        """Whether the process is being torn down."""
        space = self.mm
        return space is not None and not space.users and space in self.host.spaces.values()

    def await_death(self) -> None:
        """If the process is being torn down, let that come to its end."""
        if self.dying():
            self.host.locks.block(None, lambda: not self.dying(), "the end of the process")

    # Jobs

    def run_job(self, job: Job) -> None:
        """The engine: all accesses of a job, one after another, then its fence."""
        for index, operation in job.accesses:
            job.outcomes.append(self.access(index, operation))
        self.complete(job)

    def complete(self, job: Job) -> None:
        host = self.host
        host.record(What.COMPLETE, self.number, job.number)
        job.done = True
        with host.locks.without_sleep("an interrupt handler"):
            self.driver.complete(job)
        host.tasks.point("job complete")

    # Memory of its own

    def migrate_to_ram(self, space: AddressSpace, entry: PageTableEntry, frame: Frame) -> bool:
        """The CPU touched a page in this device's memory; False is SIGBUS."""
        answer = self.driver.migrate_to_ram(space, self.host.address(entry.slot), frame.number)
        return errno_of(answer) == 0


def pieces(operation: Operation, page_size: int) -> list[Operation]:
    """An access cut at page boundaries into accesses of its own."""
    if operation.offset + operation.length <= page_size:
        return [operation]
    found = []
    page, offset, done = operation.page, operation.offset, 0
    stored = operation.kind not in {Kind.ADD, Kind.DADD}
    while done < operation.length:
        length = min(page_size - offset, operation.length - done)
        words = done // WORD if stored else 0
        found.append(
            operation._replace(
                page=page,
                offset=offset,
                length=length,
                value=_plus(operation.value, words if operation.kind not in _READS else 0),
                expected=_plus(operation.expected, words if operation.kind in _CAS else 0),
            )
        )
        page, offset, done = page + 1, 0, done + length
    return found


_READS = frozenset({Kind.READ, Kind.DREAD})
_CAS = frozenset({Kind.CAS, Kind.DCAS})


def _plus(value: int, words: int) -> int:
    return (value + words) & ((1 << 64) - 1)
