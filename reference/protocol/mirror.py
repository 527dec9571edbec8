"""What the event record says of a device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator
from typing import NamedTuple

__all__ = ["LOCAL", "SHARED", "Got", "Mirror", "Place", "Translation"]

LOCAL = 1 << 62
"""Added to the number of a frame of a device's memory this is its address for the device."""
SHARED = 1 << 61
"""Added to the number of a frame this is what a walk of the process's page table leads to."""
Place = tuple[int, int]
"""A device's page table, and a page slot."""


class Translation(NamedTuple):
    """An entry of a device's page table or TLB."""

    address: int
    writable: bool


class Got(NamedTuple):
    """The pages of a range of drm_gpusvm, as the driver was told of them."""

    entry: int
    """In the event record, where it was."""
    first: int
    """Slot of the first page."""
    writable: bool
    addresses: tuple[int, ...]
    """Of each page."""

    def leads(self, slot: int, address: int) -> bool:
        """Whether this is the address of the page at a slot."""
        place = slot - self.first
        return 0 <= place < len(self.addresses) and self.addresses[place] == address


class Mirror:
    """A device: what its tables, its TLB and its accesses lead to."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.space: int | None = None
        self.owner = number
        self.table: dict[Place, Translation] = {}
        self.tlb: dict[Place, Translation] = {}
        self.in_flight: dict[int, tuple[Place, Translation]] = {}
        """By actor, an access that has its translation and has not reached memory yet."""
        self.dma: dict[int, int] = {}
        """Frame by DMA address."""
        self.served: defaultdict[int, set[Place]] = defaultdict(set)
        """Places that a DMA address was or is the translation of."""
        self.jobs: dict[int, frozenset[Place]] = {}
        """By number of a job that the device works on, the places that its keys led to."""
        self.young: set[Place] | None = None
        """Places whose accessed bit is set; None while the page tables have no such bits."""
        self.shares: int | None = None
        """The address space whose page table it walks."""
        self.got: dict[int, Got] = {}
        """By range of drm_gpusvm, its latest pages, which may have been invalidated meanwhile."""
        self.told: dict[Place, int] = {}
        """By place, the subscription that tells when its translation ceases to hold."""

    def write_protects(self, place: Place, address: int, writable: bool) -> bool:
        """Whether an entry would only lose the right to write: nothing need be looked up for that,
        and it is no new translation, not even inside an invalidation.
        """
        entry = self.table.get(place)
        return not writable and entry == Translation(address, True)

    def frame(self, address: int) -> int | None:
        """The frame that an address leads to; None if it leads nowhere."""
        return address - LOCAL if address & LOCAL else self.dma.get(address)

    def slots(self, first: int, end: int) -> list[int]:
        """Slots from `first` to `end` (exclusive) that the device was ever given."""
        return sorted({slot for _, slot in self.told if first <= slot < end})

    def mapped(self, first: int, end: int) -> frozenset[int]:
        """Slots from `first` to `end` (exclusive) that the device reaches in some way."""
        reached = {place[1] for _, place, _ in self.reachable()}
        return frozenset(slot for slot in reached if first <= slot < end)

    def frames(self, slots: Container[int]) -> Iterator[int]:
        """The frames that the device reaches at some slots."""
        for _way, (_table, slot), entry in self.reachable():
            frame = self.frame(entry.address) if slot in slots else None
            if frame is not None:
                yield frame

    def reachable(self) -> Iterator[tuple[str, Place, Translation]]:
        """Every way from the device to memory, with its name."""
        for place, entry in self.table.items():
            yield "its page table", place, entry
        for place, entry in self.tlb.items():
            yield "its TLB", place, entry
        for place, entry in self.in_flight.values():
            yield "an access in flight", place, entry
