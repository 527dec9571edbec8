"""kmalloc for drivers in C: real memory, with what a debugging allocator adds.

Fresh memory holds a pattern, so that what depends on it does so in every run alike.  Around a
block lie red zones, and a freed one is kept for a while, filled with another pattern: whoever
writes where it must not is found out when a block is freed or the device is closed.
"""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass, field

from reference.host.broken import Broken
from reference.host.kernel import Kernel

__all__ = ["GFP_ATOMIC", "GFP_ZERO", "LARGEST", "Memory"]

GFP_ATOMIC, GFP_ZERO = 1, 2
LARGEST = 4 << 20
"""Bytes in the largest block that can be had, as the kernel's."""
_RED = 64
"""Bytes of red zone on either side; a multiple of what any type has to be aligned to."""
_FRESH, _FREED, _ZONE = b"\x5a", b"\x6b", b"\xcc"
_KEPT = 1 << 20
"""Bytes of freed blocks that are kept."""


@dataclass
class _Block:
    handle: int
    """That of `Kernel.kmalloc`."""
    size: int
    what: str
    store: ctypes.Array[ctypes.c_char] = field(repr=False)

    @property
    def address(self) -> int:
        return ctypes.addressof(self.store) + _RED

    def fill(self, pattern: bytes) -> None:
        ctypes.memset(self.address, pattern[0], self.size)

    def check(self) -> None:
        """`Broken` if somebody wrote before the block or behind it."""
        before = ctypes.string_at(self.address - _RED, _RED)
        behind = ctypes.string_at(self.address + self.size, _RED)
        if before != _ZONE * _RED:
            raise Broken("W6", f"somebody wrote before the start of {self.what}")
        if behind != _ZONE * _RED:
            raise Broken("W6", f"somebody wrote behind the end of {self.what}")

    def check_freed(self) -> None:
        """`Broken` if somebody wrote into the block after it was freed."""
        if ctypes.string_at(self.address, self.size) != _FREED * self.size:
            raise Broken("W6", f"somebody wrote to {self.what} after it was freed")


class Memory:
    """The blocks of one device's driver."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._blocks: dict[int, _Block] = {}
        self._freed: deque[_Block] = deque()
        self._kept = 0

    def allocate(self, size: int, flags: int, where: str) -> int:
        """Address of a new block, 0 if there is no memory."""
        what = f"the {size} bytes allocated in {where}()"
        handle = self._kernel.kmalloc(what, atomic=bool(flags & GFP_ATOMIC))
        if not handle:
            return 0
        if size > LARGEST:
            self._kernel.kfree(handle)
            return 0
        store = ctypes.create_string_buffer(size + 2 * _RED)
        ctypes.memset(store, _ZONE[0], size + 2 * _RED)
        block = _Block(handle, size, what, store)
        block.fill(b"\0" if flags & GFP_ZERO else _FRESH)
        self._blocks[block.address] = block
        return block.address

    def free(self, address: int) -> None:
        block = self._blocks.pop(address, None)
        if block is None:
            freed = next((each for each in self._freed if each.address == address), None)
            what = f"{freed.what}, which is freed already" if freed else "what is no block"
            raise Broken("W6", f"kfree of {what}")
        block.check()
        self._kernel.kfree(block.handle)
        block.fill(_FREED)
        self._freed.append(block)
        self._kept += block.size
        while self._kept > _KEPT:
            oldest = self._freed.popleft()
            oldest.check_freed()
            self._kept -= oldest.size

    def check(self) -> None:
        """`Broken` if somebody wrote where nothing was to be written."""
        for block in self._blocks.values():
            block.check()
        for block in self._freed:
            block.check_freed()
