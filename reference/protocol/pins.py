"""Pins, references and DMA addresses: P2, S4, S5, and of W5 what is lost on nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from reference.record import Entry, What

from .checker import Checker
from .violation import Breach, Profile

__all__ = ["Pins"]


_FRAME_OF = {int(What.GET): 0, int(What.COPY): 0, int(What.DMA_MAP): 2}
"""By kind of entry, the place of the frame that is touched among its arguments."""


class Pins(Checker):
    """A page is let go of only when the device does not reach it any more."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.DMA_UNMAP: "dma_unmap",
        What.UNPIN: "unpin",
        What.PUT: "put",
        What.DEVICE_MAP: "device_map",
        What.ACCESS: "access",
        What.GET: "touch",
        What.COPY: "touch",
        What.DMA_MAP: "touch",
        What.ENDED: "ended",
        What.LEAK: "leak",
    }

    def dma_unmap(self, _index: int, entry: Entry) -> None:
        device, address = map(int, entry.arguments)
        for way, (_table, slot), translation in self.state.mirror(device).reachable():
            if translation.address == address:
                text = f"device {device} unmaps DMA address {address}"
                raise Breach("S5", f"{text}, which it still uses for page {slot} through {way}")
        if address in self.state.mirror(device).served:
            self.count("S5")

    def unpin(self, _index: int, entry: Entry) -> None:
        frame = int(entry.arguments[0])
        if self.invalidated:
            return
        left = self.state.pins[frame] - 1
        addresses = [
            f"{address} of device {mirror.number}"
            for mirror in self.state.mirrors.values()
            for address, mapped in mirror.dma.items()
            if mapped == frame
        ]
        if len(addresses) > left:
            text = f"frame {frame} is unpinned, but DMA address {addresses[-1]} still leads to it"
            raise Breach("P2", text)
        self.count("P2")

    def put(self, _index: int, entry: Entry) -> None:
        frame = int(entry.arguments[0])
        if self.state.references[frame] > 1:
            return
        for mirror in self.state.mirrors.values():
            for place, translation in mirror.tlb.items():
                stale = mirror.table.get(place) != translation
                if stale and mirror.frame(translation.address) == frame:
                    text = f"the last reference to frame {frame} is dropped"
                    raise Breach("S5", f"{text} before a TLB flush of page {place[1]}")
        self.count("S5")

    def device_map(self, _index: int, entry: Entry) -> None:
        device, _table, slot, address, _writable = map(int, entry.arguments)
        if not self.invalidated:
            frame = self.state.mirror(device).frame(address)
            self._check_held(frame, f"device {device} maps page {slot}")
            self.count("S4")

    def access(self, _index: int, entry: Entry) -> None:
        device, _table, slot, frame, _write = map(int, entry.arguments)
        if not self.invalidated and frame >= 0:
            self._check_held(frame, f"device {device} accesses page {slot}")

    # End callbacks (S3)

    def touch(self, _index: int, entry: Entry) -> None:
        """In an end callback the pages of the range are gone, unless the driver has held them."""
        ending = self.state.endings.get(entry.actor)
        if ending is None:
            return
        subscription, range_ = ending
        touched = entry.arguments[_FRAME_OF[entry.what]]
        frame = int(touched)
        kept = self.state.pins[frame] or self.state.references[frame]
        if not kept and any(frame in range_.frames.get(each, ()) for each in subscription.devices):
            text = f"the end callback for {range_} touches frame {frame}"
            raise Breach("S3", f"{text}, which is not the range's any more")

    def ended(self, _index: int, entry: Entry) -> None:
        ending = self.state.endings.get(entry.actor)
        if ending is not None and any(map(ending[1].frames.get, ending[0].devices)):
            self.count("S3")

    def _check_held(self, frame: int | None, what: str) -> None:
        """With nobody to tell it of changes, a device needs the page to stay where it is."""
        if frame is None:
            raise Breach("W6", f"{what} through a DMA address that leads nowhere")
        if not self.state.pins[frame] and not self.state.references[frame]:
            raise Breach("S4", f"{what} in frame {frame}, of which nobody has a pin or reference")

    def leak(self, _index: int, entry: Entry) -> None:
        """One that a kernel misses ends the run by itself.

        Linux counts no pins of the zero page and leaves callers to drop them all the same, which
        drivers/vfio/vfio_iommu_type1.c does not do.
        """
        message, counted = entry.arguments
        if not counted and self.profile == Profile.STRICT:
            raise Breach("W5", str(message))
