"""Classes 9 and 10: fork, the identity of address spaces, and pins that must stay stable."""

from __future__ import annotations

from reference.mirrors.faulting import FaultingDevice
from reference.mirrors.memory import AddressSpace, PageTableEntry
from reference.operations import Operation
from reference.outcomes import Outcome

from .mutant import plant


@plant(
    "ro-pin-of-shared",
    title="a read pin of a page that may be shared is left behind by the next write",
    seen_in="mm/gup c89357e27f20",
    base="registration",
    rule="C1",
    minimal=6,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        read p0 page=0 offset=4088 length=16
        register d0 key=1 r page=0 pages=1
        write p0 page=0 offset=0 length=8 value=0x500000
        dread d0 page=0 offset=0 length=8 key=1
    """,
)
class _ReadPinOfShared(AddressSpace):
    def unshare(self, entry: PageTableEntry) -> None:
        if entry.frame is None or len(entry.frame.mappings) == 1:
            super().unshare(entry)


@plant(
    "cow-either-way",
    title="a reader's pin keeps the original page while its owner writes it in place",
    seen_in="CVE-2020-29374",
    base="registration",
    rule="A4",
    minimal=6,
    sequence="""
        map p0 rw page=0 pages=2
        attach d0 p0
        read p0 page=0 offset=0 length=8
        register d0 key=1 r page=1 pages=1
        write p0 page=0 offset=0 length=8 value=0x500000
        dread d0 page=1 offset=0 length=8 key=1
    """,
)
class _CopyOnWriteEitherWay(_ReadPinOfShared):
    def break_copy_on_write(self, entry: PageTableEntry) -> None:
        frame = entry.frame
        if frame is None or not frame.pins or frame.cache is not None:
            super().break_copy_on_write(entry)
            return
        for other in frame.mappings - {entry}:
            other.space.replace(other, self.manager.duplicate(frame))


@plant(
    "child-hole",
    title="registered pages are missing in a forked child",
    seen_in="efa 5242e5bf5",
    base="registration",
    rule="A2",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        fork p0 child=p1
        read p1 page=0 offset=0 length=8
    """,
)
class _ChildHole(AddressSpace):
    def inherit(self, slot: int, entry: PageTableEntry) -> None:
        if entry.frame is not None and entry.frame.pins:
            self.leave(slot)
        else:
            super().inherit(slot, entry)


@plant(
    "wrong-mm",
    title="an operation uses the address space that opened the device, not the attached one",
    seen_in="hfi1, CVE-2020-27835",
    base="faulting",
    rule="A2",
    minimal=4,
    sequence="""
        fork p0 child=p1
        map p1 rw page=0 pages=1
        attach d0 p1
        dread d0 page=0 offset=0 length=8
    """,
)
class _WrongAddressSpace(FaultingDevice):
    def attach(self, op: Operation) -> Outcome:
        outcome = super().attach(op)
        self.space = self.manager.spaces.get(0, self.space)
        return outcome


@plant(
    "pinned-then-fork",
    title="fork write-protects a pinned page and the parent's next write moves away from it",
    seen_in="mm/gup 70e806e4e645, libfabric 76a9f40ff",
    base="registration",
    rule="L7",
    minimal=6,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        fork p0 child=p1
        write p0 page=0 offset=0 length=8 value=0x100000
        dread d0 page=0 offset=0 length=8 key=1
    """,
)
class _PinnedThenFork(AddressSpace):
    def inherit(self, slot: int, entry: PageTableEntry) -> None:
        frame = entry.frame
        if frame is None or not frame.pins:
            super().inherit(slot, entry)
        else:
            entry.writable = False
            self.install(slot, frame, False)
