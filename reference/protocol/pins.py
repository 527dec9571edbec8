"""Pins, references and DMA addresses: P2, S4 and S5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from reference.record import Entry, What

from .checker import Checker
from .violation import Breach

__all__ = ["Pins"]


class Pins(Checker):
    """A page is let go of only when the device does not reach it any more."""

    HANDLES: ClassVar[Mapping[What, str]] = {
        What.DMA_UNMAP: "dma_unmap",
        What.UNPIN: "unpin",
        What.PUT: "put",
        What.DEVICE_MAP: "device_map",
        What.ACCESS: "access",
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

    def _check_held(self, frame: int | None, what: str) -> None:
        """With nobody to tell it of changes, a device needs the page to stay where it is."""
        if frame is None:
            raise Breach("W6", f"{what} through a DMA address that leads nowhere")
        if not self.state.pins[frame] and not self.state.references[frame]:
            raise Breach("S4", f"{what} in frame {frame}, of which nobody has a pin or reference")
