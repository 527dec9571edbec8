"""Class 3: what happens when a device is closed or lets go; class 4: refusals."""

from __future__ import annotations

from reference.mirrors.faulting import STAGING, FaultingDevice
from reference.mirrors.registration import RegistrationDevice
from reference.operations import Event, Operation
from reference.outcomes import Outcome

from .mutant import plant


@plant(
    "close-orphans-pages",
    title="a device is closed while its private pages are still mapped",
    seen_in="test_hmm, linux-mm 20260331063445.3551404-2",
    base="faulting",
    rule="G7",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        to_device d0 page=0 pages=1
        detach d0
        read p0 page=0 offset=0 length=8
    """,
)
class _CloseOrphansPages(FaultingDevice):
    def evict(self) -> None:
        for frame in list(self.memory.live.values()):
            self.memory.free(frame)


@plant(
    "evict-alloc-fails",
    title="eviction when the device is closed stops where an allocation fails",
    seen_in="test_hmm c2af060d1c18",
    base="faulting",
    rule="G7",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=3
        attach d0 p0
        to_device d0 page=0 pages=3
        detach d0
        read p0 page=2 offset=0 length=8
    """,
)
class _EvictAllocationFails(FaultingDevice):
    def evict(self) -> None:
        for count, frame in enumerate(list(self.memory.live.values())):
            if count < STAGING:
                self.manager.to_system(frame)
            else:
                self.memory.free(frame)


@plant(
    "freed-while-mapped",
    title="a buffer's pages are freed with the buffer although they are still mapped",
    seen_in="io_uring, CVE-2024-0582",
    base="registration",
    rule="A4",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        unregister d0 key=1
        read p0 page=0 offset=0 length=8
    """,
)
class _FreedWhileMapped(RegistrationDevice):
    def unregister(self, op: Operation) -> Outcome:
        registration = self.registrations.get(op.key)
        frames = [] if registration is None else list(registration.frames.values())
        outcome = super().unregister(op)
        for frame in frames:
            frame.pool.free(frame)
        return outcome


@plant(
    "blockable-refused",
    title="the check for a busy range ignores that the call may block, and refuses",
    seen_in="xen/gntdev 2018-08-27",
    base="faulting",
    rule="I12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        unmap p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
    """,
)
class _BlockableRefused(FaultingDevice):
    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        return not any(first <= slot < end for slot in self.translations)
