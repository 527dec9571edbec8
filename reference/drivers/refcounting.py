"""The refcounting driver: buffers that the device works on are counted, as amdgpu's userptrs are.

Each buffer has an interval subscription of its own.  A job may start once all its buffers are
valid at one moment, and counts them as in flight from then on.  `lock` makes the check and the
counting one step for the invalidate callback, which waits under it until its buffer is idle: so
nobody can submit more work meanwhile.  The device itself never faults.
"""

from __future__ import annotations

import errno
from typing import cast

from reference.host.hardware import Device, Job
from reference.host.hmm import (
    HMM_PFN_REQ_FAULT,
    HMM_PFN_REQ_WRITE,
    HMM_PFN_WRITE,
    HmmRange,
    hmm_pfn_to_number,
)
from reference.host.kernel import Kernel
from reference.host.notifiers import IntervalNotifier
from reference.host.ranges import Range
from reference.host.space import AddressSpace
from reference.syncmodels import Sync

from .driver import Driver

__all__ = ["Buffer", "RefcountingDriver"]


class Buffer:
    """Bytes `start` to `end` (exclusive) that user space has registered under a key."""

    def __init__(
        self, driver: RefcountingDriver, key: int, start: int, end: int, write: bool
    ) -> None:
        self.driver = driver
        self.key = key
        self.start = start
        self.end = end
        self.write = write
        self.notifier: IntervalNotifier
        self.entries: dict[int, int] = {}
        """DMA address by page address, as the device's table has it; empty unless valid."""
        self.in_flight = 0
        """Jobs that the device may be working on: an atomic_t, with a wait queue."""

    def invalidate(self, notifier: IntervalNotifier, range_: Range, sequence: int) -> bool:
        return self.driver.invalidate(self, notifier, range_, sequence)


class RefcountingDriver(Driver):
    """Reaches memory through registered buffers only."""

    name = "refcounting"
    model = Sync.REFCOUNTING
    keyed = True

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.lock = kernel.mutex("notifier lock")
        self.mm: AddressSpace | None = None
        self.buffers: dict[int, Buffer] = {}

    # The file

    def open(self, mm: AddressSpace) -> int:
        self.mm = mm
        return 0

    def close(self) -> None:
        for key in list(self.buffers):
            self.unregister(key)
        self.mm = None

    # Buffers

    def register(self, key: int, start: int, end: int, write: bool) -> int:
        if key in self.buffers:
            return -errno.EBUSY
        if self.mm is None:
            return -errno.ESRCH
        buffer = Buffer(self, key, start, end, write)
        notifier = self.kernel.mmu_interval_notifier_insert(buffer, self.mm, start, end - start)
        if isinstance(notifier, int):
            return notifier
        buffer.notifier = notifier
        answer = self.validate(buffer)
        if answer:
            self.destroy(buffer)
            return answer
        self.buffers[key] = buffer
        return 0

    def unregister(self, key: int) -> int:
        buffer = self.buffers.pop(key, None)
        if buffer is None:
            return -errno.EINVAL
        self.destroy(buffer)
        return 0

    def destroy(self, buffer: Buffer) -> None:
        """Tear down an idle buffer, once no callback can come any more."""
        self.kernel.mmu_interval_notifier_remove(buffer.notifier)
        self.lock.lock()
        self.zap(buffer)
        self.lock.unlock()

    # Notifier

    def invalidate(
        self, buffer: Buffer, notifier: IntervalNotifier, range_: Range, sequence: int
    ) -> bool:
        if not self.lock_idle(buffer, range_.blockable):
            return False
        self.kernel.mmu_interval_set_seq(notifier, sequence)
        self.zap(buffer)
        self.lock.unlock()
        return True

    def lock_idle(self, buffer: Buffer, blockable: bool) -> bool:
        """Take the lock while the buffer is idle; False if that would be to sleep and may not."""
        if blockable:
            self.lock.lock()
            self.kernel.wait_event(lambda: buffer.in_flight == 0, f"buffer {buffer.key} to be idle")
            return True
        if not self.lock.trylock():
            return False
        if buffer.in_flight:
            self.lock.unlock()
            return False
        return True

    def zap(self, buffer: Buffer) -> None:
        """Drop the translations of an idle buffer; the caller holds the lock."""
        if not buffer.entries:
            return
        slots = [self.device.host.slot(address) for address in buffer.entries]
        for slot in slots:
            self.device.unmap(buffer.key, slot)
        self.device.flush(slots[0], slots[-1] + 1)
        for dma in buffer.entries.values():
            self.kernel.dma_unmap_page(dma)
        buffer.entries.clear()

    # Work

    def submit(self, job: Job) -> int:
        """Have all buffers of a job valid at one moment, and count them as in flight."""
        if not self.buffers.keys() >= set(job.keys):
            return -errno.EINVAL
        buffers = [self.buffers[key] for key in job.keys]
        while True:
            for buffer in buffers:
                answer = self.validate(buffer)
                if answer:
                    return answer
            self.lock.lock()
            # One may have been invalidated while another was validated.
            if all(buffer.entries for buffer in buffers):
                for buffer in buffers:
                    buffer.in_flight += 1
                job.private = buffers
                self.lock.unlock()
                return 0
            self.lock.unlock()

    def complete(self, job: Job) -> None:
        for buffer in cast("list[Buffer]", job.private):
            buffer.in_flight -= 1  # and wakes whoever waits for it

    # Validation

    def validate(self, buffer: Buffer) -> int:
        """Let the device's table have a buffer's pages, if it was invalidated since it had them."""
        mm = self.mm
        if buffer.entries:
            return 0
        if mm is None or not self.kernel.mmget_not_zero(mm):
            return -errno.EFAULT
        answer = self.populate(mm, buffer)
        self.kernel.mmput(mm)
        # User space learns that its range is bad, not in which way.
        return -errno.EFAULT if answer == -errno.EPERM else answer

    def populate(self, mm: AddressSpace, buffer: Buffer) -> int:
        """Collect, and install unless the buffer was invalidated meanwhile."""
        while True:
            answer, range_ = self.collect(mm, buffer)
            if answer:
                return answer
            self.lock.lock()
            if not self.kernel.mmu_interval_read_retry(buffer.notifier, range_.notifier_seq):
                answer = self.install(buffer, range_.hmm_pfns)
                self.lock.unlock()
                return answer
            self.lock.unlock()

    def collect(self, mm: AddressSpace, buffer: Buffer) -> tuple[int, HmmRange]:
        """What the CPU's table has for a buffer, or a negative errno."""
        while True:
            range_ = HmmRange(
                buffer.notifier,
                self.kernel.mmu_interval_read_begin(buffer.notifier),
                buffer.start,
                buffer.end,
                default_flags=HMM_PFN_REQ_FAULT | (HMM_PFN_REQ_WRITE if buffer.write else 0),
            )
            self.kernel.mmap_read_lock(mm)
            answer = self.kernel.hmm_range_fault(range_)
            self.kernel.mmap_read_unlock(mm)
            if answer != -errno.EBUSY:
                return answer, range_

    def install(self, buffer: Buffer, pfns: list[int]) -> int:
        """Let the device's table have what the CPU's has; the caller holds the lock."""
        for page, pfn in enumerate(pfns):
            address = buffer.start + page * self.kernel.page_size
            dma = self.kernel.dma_map_page(hmm_pfn_to_number(pfn))
            if not dma:
                self.zap(buffer)
                return -errno.ENOMEM
            buffer.entries[address] = dma
            writable = buffer.write and bool(pfn & HMM_PFN_WRITE)
            self.device.map(buffer.key, self.device.host.slot(address), dma, writable)
        return 0
