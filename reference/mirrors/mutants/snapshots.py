"""What a device is shown of pages: rights, places, and the page of zeros."""

from __future__ import annotations

from reference.mirrors.looking import LookingDevice
from reference.mirrors.manager import MemoryManager
from reference.mirrors.memory import PageTableEntry
from reference.operations import Operation
from reference.outcomes import Outcome, Seen

from .mutant import plant


@plant(
    "shown-as-the-area",
    title="a snapshot shows the area's right to write where fork took it from the page",
    seen_in="our own",
    base="looking",
    rule="H12",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        write p0 page=0 offset=0 length=8 value=0x100000
        fork p0 child=p1
        snapshot d0 page=0 pages=1
    """,
)
class _ShownAsTheArea(LookingDevice):
    def rights(self, entry: PageTableEntry) -> int:
        area = self.space.areas[entry.slot]
        own = area.anonymous and entry.frame is not self.manager.zero
        return Seen.READ | Seen.WRITE if own and area.writable else super().rights(entry)


@plant(
    "shown-where-it-was",
    title="a snapshot shows pages in device memory that have gone home since",
    seen_in="our own",
    base="looking",
    rule="H13",
    minimal=5,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        to_device d0 page=0 pages=1
        read p0 page=0 offset=0 length=8
        snapshot d0 page=0 pages=1
    """,
)
class _ShownWhereItWas(LookingDevice):
    def __init__(self, manager: MemoryManager, number: int) -> None:
        super().__init__(manager, number)
        self.sent: set[int] = set()

    def attach(self, op: Operation) -> Outcome:
        self.sent.clear()
        return super().attach(op)

    def send(self, slot: int) -> bool:
        sent = super().send(slot)
        if sent:
            self.sent.add(slot)
        return sent

    def place(self, entry: PageTableEntry) -> int:
        return Seen.HERE if entry.slot in self.sent else super().place(entry)


@plant(
    "zeros-shown-writable",
    title="a snapshot shows the page of zeros with the right to write",
    seen_in="our own",
    base="looking",
    rule="H14",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        read p0 page=0 offset=0 length=8
        snapshot d0 page=0 pages=1
    """,
)
class _ZerosShownWritable(LookingDevice):
    def rights(self, entry: PageTableEntry) -> int:
        shared = entry.frame is self.manager.zero and self.space.areas[entry.slot].writable
        return Seen.READ | Seen.WRITE if shared else super().rights(entry)
