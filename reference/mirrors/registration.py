"""The registration mirror: frames are pinned from register to unregister."""

from __future__ import annotations

import errno

from reference.operations import Event, Flag, Operation
from reference.outcomes import Outcome

from .access import FAULT, is_write, perform, slots_of
from .calls import OK, failed
from .device import Device
from .frames import Frame
from .manager import MemoryManager
from .memory import AddressSpace

__all__ = ["Registration", "RegistrationDevice"]


class Registration:
    """A range of slots with its pinned frames, by slot."""

    def __init__(self, op: Operation) -> None:
        self.slots = range(op.page, op.page + op.pages)
        self.writable = bool(op.flags & Flag.WRITE)
        self.frames: dict[int, Frame] = {}

    def pin(self, space: AddressSpace) -> bool:
        """Pin the whole range, or nothing."""
        for slot in self.slots:
            frame = space.pin(slot, self.writable)
            if frame is None:
                self.unpin(space)
                return False
            self.frames[slot] = frame
        return True

    def unpin(self, space: AddressSpace) -> None:
        for frame in self.frames.values():
            space.unpin(frame)
        self.frames.clear()

    def frame(self, slot: int, write: bool) -> Frame | None:
        """The pinned frame, if the process still lives; the right to it goes with the range."""
        return self.frames.get(slot)


class RegistrationDevice(Device):
    """A device that reaches memory only through keys."""

    def __init__(self, manager: MemoryManager, number: int) -> None:
        super().__init__(manager, number)
        self.registrations: dict[int, Registration] = {}

    def register(self, op: Operation) -> Outcome:
        if op.key in self.registrations:
            return failed(errno.EBUSY)
        registration = Registration(op)
        if not self.pin(registration):
            return failed(errno.EFAULT)
        self.registrations[op.key] = registration
        return OK

    def pin(self, registration: Registration) -> bool:
        return registration.pin(self.space)

    def unregister(self, op: Operation) -> Outcome:
        registration = self.registrations.pop(op.key, None)
        if registration is None:
            return failed(errno.EINVAL)
        registration.unpin(self.space)
        return OK

    def access(self, op: Operation) -> Outcome:
        registration = self.registrations.get(op.key)
        if registration is None or not self.allows(registration, op):
            return FAULT
        return perform(op, registration.frame, self.page_size)

    def allows(self, registration: Registration, op: Operation) -> bool:
        """Whether an access is inside the range, and no write through a read-only one."""
        if is_write(op) and not registration.writable:
            return False
        slots = slots_of(op, self.page_size)
        return slots[0] in registration.slots and slots[-1] in registration.slots

    def invalidate(self, first: int, end: int, event: Event, blockable: bool) -> bool:
        """Nothing to do: the frames are pinned, and user space has been told not to unmap."""
        return True

    def release(self) -> None:
        """The pins go with the process; its keys lead nowhere, but are still to be unregistered."""
        for registration in self.registrations.values():
            registration.unpin(self.space)

    def drop_everything(self) -> None:
        self.release()
        self.registrations.clear()
