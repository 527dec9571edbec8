"""The arena that a program runs in."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from .schema import U16, U32, layout_of

__all__ = ["GEOMETRY", "PAGE_SIZES", "Geometry"]

PAGE_SIZES = (4096, 65536, 2 << 20)
MAX_PAGES = 1024


class Geometry(NamedTuple):
    """Size of the arena and how many of each thing a program may use."""

    page_size: Annotated[int, U32, "bytes in a page slot: 4 KiB, 64 KiB or 2 MiB"] = 4096
    pages: Annotated[int, U16, "page slots in the arena; also the initial size of each file"] = 16
    processes: Annotated[int, U16, "1 to 3"] = 3
    devices: Annotated[int, U16, "0 to 2"] = 2
    files: Annotated[int, U16, "0 to 4"] = 4
    keys: Annotated[int, U16, "registrations per device, 0 to 8"] = 4
    jobs: Annotated[int, U16, "jobs in flight per device, 0 to 4"] = 2

    def check(self) -> None:
        """`ValueError`, naming the field, unless every field is in its range."""
        if self.page_size not in PAGE_SIZES:
            raise ValueError(f"page_size: {self.page_size} is none of {PAGE_SIZES}")
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: {value} is not in {low}..{high}")


LIMITS = {
    "pages": (1, MAX_PAGES),
    "processes": (1, 3),
    "devices": (0, 2),
    "files": (0, 4),
    "keys": (0, 8),
    "jobs": (0, 4),
}

GEOMETRY = layout_of(Geometry)
