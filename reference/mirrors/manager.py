"""The memory manager: what all address spaces have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from reference.geometry import Geometry
from reference.operations import Event, Kind, Operation

from .files import PageCache
from .frames import Frame, FramePool, SwapStore
from .memory import AddressSpace, PageTableEntry

__all__ = ["MemoryManager"]


class MemoryManager:
    """System memory, swap, files and address spaces of one arena."""

    def __init__(self, geometry: Geometry, space: type[AddressSpace] = AddressSpace) -> None:
        self.geometry = geometry
        self.pool = FramePool()
        self.swap = SwapStore()
        self.zero = self.zeroed()
        self.pool.get(self.zero)
        self.files = [PageCache(self.pool, geometry.pages) for _ in range(geometry.files)]
        self._space = space
        self.spaces: dict[int, AddressSpace] = {}
        self.add_space(0)
        self.operation = Operation(Kind.READ, 0, 0, 0, 0, 0)
        """The operation that is being done, as a hook in user space would know it."""

    def add_space(self, number: int) -> AddressSpace:
        space = self.spaces[number] = self._space(self, number)
        return space

    # Frames

    def allocate(self) -> Frame:
        """A frame of system memory, still poisoned; `MemoryError` if there is none."""
        frame = self.pool.allocate()
        if frame is None:
            raise MemoryError("system memory is full")
        return frame

    def zeroed(self) -> Frame:
        frame = self.allocate()
        frame.clear()
        return frame

    def duplicate(self, frame: Frame) -> Frame:
        """A frame of system memory with the same words."""
        copy = self.allocate()
        frame.pool.copy(frame, copy)
        copy.dirty = True
        return copy

    def put(self, frame: Frame) -> None:
        """Drop a reference to a frame; the last one frees it and its swap slot."""
        backing = frame.backing
        frame.pool.put(frame)
        if frame.references == 0 and backing is not None:
            frame.backing = None
            self.swap.put(backing)

    # Changes that concern every mapping of a frame

    @contextmanager
    def invalidating(self, entries: Iterable[PageTableEntry], event: Event) -> Iterator[None]:
        """Around a change of entries anywhere."""
        with ExitStack() as stack:
            for entry in entries:
                stack.enter_context(entry.space.invalidating(entry.slot, entry.slot + 1, event))
            yield

    def relocate(self, frame: Frame, target: Frame, event: Event = Event.CLEAR) -> None:
        """Move a page to another frame, at every place where it is mapped."""
        entries = list(frame.mappings)
        with self.invalidating(entries, event):
            # Copied inside the bracket: a device may write until its invalidation returns.
            (target.pool if frame.device is None else frame.pool).copy(frame, target)
            target.dirty = frame.dirty
            target.backing, frame.backing = frame.backing, None
            if frame.cache is not None:
                file, page = frame.cache
                file.replace(page, target)
            for entry in entries:
                entry.space.replace(entry, target)

    def to_system(self, frame: Frame) -> None:
        """Move a page out of a device's memory (G9)."""
        self.relocate(frame, self.allocate(), Event.MIGRATE)

    def page_out(self, frame: Frame) -> None:
        """Reclaim a frame; inside an invalidation of all that map it."""
        entries = list(frame.mappings)
        if frame.cache is not None:
            file, page = frame.cache
            for entry in entries:
                entry.space.zap(entry.slot)
            file.write_back(page)
        else:
            self._swap_out(frame, entries)

    def _swap_out(self, frame: Frame, entries: list[PageTableEntry]) -> None:
        slot = self._backing(frame)
        for entry in entries:
            if slot is None:
                entry.space.zap(entry.slot)
            else:
                entry.space.swap_out(entry, slot)

    def _backing(self, frame: Frame) -> int | None:
        """The swap slot that has the frame's words; None if they are zero."""
        if frame.dirty:
            if frame.backing is not None:
                self.swap.put(frame.backing)
            frame.backing = self.swap.store(frame.contents())
            frame.dirty = False
        return frame.backing

    def unmap_file(self, file: PageCache, first: int, end: int, copies: bool) -> None:
        """Drop every entry of a file's pages `first` to `end` (exclusive), in all processes.

        With `copies` also the private copies, which are no longer pages of the file.
        """
        for space in self.spaces.values():
            for slot, area in space.areas.items():
                if area.file is not file or not first <= slot + area.delta < end:
                    continue
                with space.invalidating(slot, slot + 1, Event.CLEAR):
                    entry = space.table.get(slot)
                    if entry is not None and (copies or _from_cache(entry)):
                        space.zap(slot)


def _from_cache(entry: PageTableEntry) -> bool:
    return entry.frame is not None and entry.frame.cache is not None
