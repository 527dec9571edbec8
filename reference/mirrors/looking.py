"""The faulting mirror with a device that shows what it would see, as `hmm_range_fault` does where
nothing is asked for.
"""

from __future__ import annotations

import errno

from reference.operations import Operation
from reference.outcomes import Outcome, Seen, Status

from .calls import failed
from .faulting import FaultingDevice
from .memory import PageTableEntry

__all__ = ["LookingDevice"]


class LookingDevice(FaultingDevice):
    """A device that can look at pages without faulting them in."""

    def snapshot(self, op: Operation) -> Outcome:
        slots = range(op.page, op.page + op.pages)
        if self.space is not self.manager.spaces.get(self.space.number):
            return failed(errno.EINVAL)
        return Outcome(Status.OK, data=bytes(map(self.look, slots)))

    def look(self, slot: int) -> int:
        """What the device sees of a slot; 0 where it would have to fault."""
        area, entry = self.space.areas.get(slot), self.space.table.get(slot)
        if area is None or not area.readable or entry is None or entry.frame is None:
            return 0
        if not entry.present and entry.frame.device is not self:
            return 0
        return self.rights(entry) | self.place(entry)

    def rights(self, entry: PageTableEntry) -> int:
        """As the processor's entry has them."""
        return Seen.READ | Seen.WRITE if entry.writable else Seen.READ

    def place(self, entry: PageTableEntry) -> int:
        """Where the frame is, and whether it is a special one."""
        if entry.frame is not None and entry.frame.device is self:
            return Seen.HERE
        zero = Seen.ZERO if entry.frame is self.manager.zero else 0
        huge = Seen.HUGE if entry.huge is not None and entry.huge.whole else 0
        return Seen.SYSTEM | zero | huge
