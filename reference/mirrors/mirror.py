"""Closed mirrors: memory manager and devices behind one interpreter of operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from reference.description import Description
from reference.geometry import PAGE_SIZES, Geometry
from reference.operations import DEVICE_ACCESSES, Kind, Operation
from reference.outcomes import Outcome, Status
from reference.schema import ABI_VERSION
from reference.syncmodels import Sync

from .access import perform
from .caching import CachingDevice
from .calls import SystemCalls
from .device import Device
from .events import MemoryEvents
from .faulting import FaultingDevice
from .looking import LookingDevice
from .manager import MemoryManager
from .memory import AddressSpace
from .refcounting import RefcountingDevice
from .registration import RegistrationDevice

__all__ = ["Caching", "Faulting", "Looking", "Mirror", "Refcounting", "Registering"]

Handler = Callable[[Operation], Outcome]
_CALLS = (
    *(Kind.MAP, Kind.UNMAP, Kind.REMAP, Kind.PROTECT, Kind.DISCARD, Kind.PUNCH, Kind.FREE),
    *(Kind.TRUNCATE, Kind.FORK, Kind.EXIT, Kind.INVALIDATE),
)
_EVENTS = (Kind.RECLAIM, Kind.MIGRATE, Kind.COLLAPSE, Kind.SPLIT, Kind.MERGE)
_CPU = (Kind.READ, Kind.WRITE, Kind.ADD, Kind.CAS)
_ATTACHMENT = (Kind.ATTACH, Kind.DETACH, Kind.SUBMIT, Kind.WAIT)
_COMMON = frozenset({*_CALLS, *_EVENTS, *_CPU, *_ATTACHMENT, *DEVICE_ACCESSES})


class Mirror:
    """A candidate made of these parts; the attributes say of which."""

    name: ClassVar[str]
    model: ClassVar[Sync]
    keyed: ClassVar[bool] = False
    device_kinds: ClassVar[tuple[Kind, ...]]
    """Operations of its devices beyond accesses, attachment and jobs."""
    device_class: ClassVar[type[Device]]
    space_class: ClassVar[type[AddressSpace]] = AddressSpace
    events_class: ClassVar[type[MemoryEvents]] = MemoryEvents

    def __init__(self) -> None:
        self.reset(Geometry())

    def describe(self) -> Description:
        return Description(
            name=self.name,
            version=str(ABI_VERSION),
            model=self.model,
            keyed=self.keyed,
            operations=frozenset(kind.name.lower() for kind in _COMMON | {*self.device_kinds}),
            page_sizes=PAGE_SIZES,
            processes=3,
            devices=2,
            files=4,
            keys=8 if self.keyed else 0,
            jobs=4,
        )

    def reset(self, geometry: Geometry) -> None:
        """A fresh arena."""
        self.manager = MemoryManager(geometry, self.space_class)
        self.devices = [
            self.device_class(self.manager, number) for number in range(geometry.devices)
        ]
        self._handlers = self._table()

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        """One outcome for each operation."""
        handlers, manager = self._handlers, self.manager
        outcomes = []
        for op in operations:
            manager.operation = op
            handler = handlers.get(op.kind)
            outcomes.append(Outcome(Status.UNSUPPORTED) if handler is None else handler(op))
        return outcomes

    def _table(self) -> dict[int, Handler]:
        calls, events = SystemCalls(self.manager), self.events_class(self.manager)
        table: dict[int, Handler] = dict.fromkeys(_CPU, self._cpu_access)
        table |= {kind: getattr(calls, kind.name.lower()) for kind in _CALLS}
        table |= {kind: getattr(events, kind.name.lower()) for kind in _EVENTS}
        table |= dict.fromkeys(DEVICE_ACCESSES, self._device_access)
        table |= {kind: self._on_device(kind) for kind in (*_ATTACHMENT, *self.device_kinds)}
        return table

    def _cpu_access(self, op: Operation) -> Outcome:
        manager = self.manager
        return perform(op, manager.spaces[op.process].frame_for, manager.geometry.page_size)

    def _device_access(self, op: Operation) -> Outcome:
        return self.devices[op.device].access_or_queue(op)

    def _on_device(self, kind: Kind) -> Handler:
        methods: list[Handler] = [getattr(device, kind.name.lower()) for device in self.devices]
        return lambda op: methods[op.device](op)


class Faulting(Mirror):
    """Translations filled by faults, device memory, exclusive access."""

    name = "reference:faulting"
    model = Sync.FAULTING
    device_class = FaultingDevice
    device_kinds: ClassVar[tuple[Kind, ...]] = (
        Kind.FAULT,
        Kind.TO_DEVICE,
        Kind.TO_SYSTEM,
        Kind.EXCLUSIVE,
    )


class Looking(Faulting):
    """The same, and the device can look at pages without faulting them in."""

    name = "reference:looking"
    device_class = LookingDevice
    device_kinds = (*Faulting.device_kinds, Kind.SNAPSHOT)


class Caching(Mirror):
    """A cache of registrations that are made on demand: to its user, a faulting mirror."""

    name = "reference:caching"
    model = Sync.FAULTING
    device_class = CachingDevice
    device_kinds = (Kind.FAULT,)


class Refcounting(Mirror):
    """Buffers that are validated for each use and held while in flight."""

    name = "reference:refcounting"
    model = Sync.REFCOUNTING
    keyed = True
    device_class = RefcountingDevice
    device_kinds = (Kind.REGISTER, Kind.UNREGISTER)


class Registering(Mirror):
    """Keys to pinned frames."""

    name = "reference:registration"
    model = Sync.REGISTRATION
    keyed = True
    device_class = RegistrationDevice
    device_kinds = (Kind.REGISTER, Kind.UNREGISTER)
