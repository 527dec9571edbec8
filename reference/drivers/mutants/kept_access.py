"""Class 2: access that is kept after an invalidation returned."""

from __future__ import annotations

from reference.drivers.faulting import FaultingDriver
from reference.host.hardware import Device
from reference.host.kernel import Kernel

from .mutant import plant


@plant(
    "dma-map-left",
    title="a page without a translation stays mapped for DMA until the device is closed",
    seen_in="Xe 333b89063361",
    base="faulting",
    rule="I12",
    harm="",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
        unmap p0 page=0 pages=1
    """,
)
class _DmaMapLeft(FaultingDriver):
    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel, device)
        self.left: list[int] = []

    def zap(self, start: int, end: int) -> None:
        for address, dma in self.entries.items():
            if start <= address < end and dma:
                self.left.append(dma)
                self.entries[address] = 0
        super().zap(start, end)

    def close(self) -> None:
        super().close()
        for dma in self.left:
            self.kernel.dma_unmap_page(dma)
        self.left.clear()
