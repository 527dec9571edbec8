"""Page frames, the pools that they come from, and the swap store.

Frames are recycled at once, last freed first, and hold a pattern of their own while they are
free: whoever keeps a translation too long reads the pattern, or another page's words.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .files import PageCache
    from .memory import PageTableEntry

__all__ = ["CHUNK", "Contents", "Frame", "FramePool", "SwapStore"]

CHUNK = 512
"""Words that are stored together; a frame stores only the chunks that differ from its fill."""
_MASK = (1 << 64) - 1
_POISON = 0xDEAD_F4EE << 32
_LITTLE = sys.byteorder == "little"


class Contents(NamedTuple):
    """What a frame held at one time: a fill word and the chunks (of `CHUNK` words) beside it."""

    fill: int
    chunks: dict[int, array[int]]


def _little_endian(words: array[int]) -> bytes:
    if not _LITTLE:
        words = words[:]
        words.byteswap()
    return words.tobytes()


def _count_up(value: int, count: int) -> array[int]:
    """`count` words from `value` on, modulo 2**64."""
    if value + count <= _MASK:
        return array("Q", range(value, value + count))
    return array("Q", [word & _MASK for word in range(value, value + count)])


class Frame:
    """One page frame: words, and who holds it.

    `references` counts every holder: each page table entry, the page cache, each pin, and each
    device that has it in flight.  `dirty` says that the words differ from `backing`, a swap
    slot, or from zero if there is none; so a clean anonymous frame can be dropped.
    `locked` is who has the page lock.
    """

    __slots__ = (
        "backing",
        "cache",
        "chunks",
        "dirty",
        "fill",
        "locked",
        "mappings",
        "number",
        "pins",
        "pool",
        "references",
    )

    def __init__(self, number: int, pool: FramePool) -> None:
        self.number = number
        self.pool = pool
        self.references = 0
        self.pins = 0
        self.dirty = False
        self.locked: object | None = None
        self.cache: tuple[PageCache, int] | None = None
        self.backing: int | None = None
        self.mappings: set[PageTableEntry] = set()
        self.poison()

    @property
    def device(self) -> object | None:
        """The device in whose memory this frame lies, None for system memory."""
        return self.pool.device

    def poison(self) -> None:
        self.chunks: dict[int, array[int]] = {}
        self.fill = _POISON | self.number

    def clear(self) -> None:
        self.chunks = {}
        self.fill = 0

    def contents(self) -> Contents:
        return Contents(self.fill, {number: chunk[:] for number, chunk in self.chunks.items()})

    def load(self, contents: Contents) -> None:
        self.fill = contents.fill
        self.chunks = {number: chunk[:] for number, chunk in contents.chunks.items()}

    def equals(self, other: Frame) -> bool:
        """Whether both hold the same words; frames with different fills count as different."""
        if self.fill != other.fill:
            return False
        blank = array("Q", [self.fill]) * CHUNK
        return all(
            self.chunks.get(number, blank) == other.chunks.get(number, blank)
            for number in self.chunks.keys() | other.chunks.keys()
        )

    def read(self, first: int, count: int) -> bytes:
        """`count` words from word `first` on, little-endian."""
        at = first % CHUNK
        if at + count > CHUNK:
            return b"".join([self.read(start, part) for start, part in _parts(first, count)])
        chunk = self.chunks.get(first // CHUNK)
        if chunk is None:
            return self.fill.to_bytes(8, "little") * count
        if count == 1:
            return chunk[at].to_bytes(8, "little")
        return _little_endian(chunk[at : at + count])

    def write(self, first: int, count: int, value: int) -> None:
        """Store `value` + k in the k-th word from word `first` on."""
        at = first % CHUNK
        if at + count > CHUNK:
            for start, part in _parts(first, count):
                self.write(start, part, (value + start - first) & _MASK)
        elif count == 1:
            self._chunk(first // CHUNK)[at] = value
        else:
            self._chunk(first // CHUNK)[at : at + count] = _count_up(value, count)

    def add(self, first: int, count: int, addend: int) -> bytes:
        """Add to each word; the old words."""
        at = first % CHUNK
        if at + count > CHUNK:
            return b"".join([self.add(start, part, addend) for start, part in _parts(first, count)])
        chunk = self._chunk(first // CHUNK)
        old = chunk[at : at + count]
        chunk[at : at + count] = array("Q", [(word + addend) & _MASK for word in old])
        return _little_endian(old)

    def compare_exchange(self, first: int, count: int, expected: int, value: int) -> bytes:
        """Where the k-th word is `expected` + k make it `value` + k; the old words."""
        at = first % CHUNK
        if at + count > CHUNK:
            return b"".join(
                [
                    self.compare_exchange(
                        start, part, expected + start - first, value + start - first
                    )
                    for start, part in _parts(first, count)
                ]
            )
        chunk = self._chunk(first // CHUNK)
        old = chunk[at : at + count]
        for k, word in enumerate(old):
            if word == (expected + k) & _MASK:
                chunk[at + k] = (value + k) & _MASK
        return _little_endian(old)

    def _chunk(self, number: int) -> array[int]:
        """A chunk that is about to be written."""
        self.dirty = True
        chunk = self.chunks.get(number)
        if chunk is None:
            chunk = self.chunks[number] = array("Q", [self.fill]) * CHUNK
        return chunk


def _parts(first: int, count: int) -> Iterator[tuple[int, int]]:
    """A span of words, cut where chunks end."""
    end = first + count
    while first < end:
        part = min(CHUNK - first % CHUNK, end - first)
        yield first, part
        first += part


class FramePool:
    """Where frames come from: system memory, or the memory of one device.

    `capacity` is in frames, None for as many as asked for.
    """

    def __init__(
        self, first: int = 0, capacity: int | None = None, device: object | None = None
    ) -> None:
        self.device = device
        self.capacity = capacity
        self.live: dict[int, Frame] = {}
        self._first = first
        self._frames: list[Frame] = []
        self._free: list[Frame] = []

    def allocate(self) -> Frame | None:
        """A frame that nobody holds yet, still poisoned; None when memory is full."""
        if self._free:
            frame = self._free.pop()
        elif self.capacity is not None and len(self.live) >= self.capacity:
            return None
        else:
            frame = Frame(self._first + len(self._frames), self)
            self._frames.append(frame)
        self.live[frame.number] = frame
        frame.dirty = False
        return frame

    def find(self, number: int) -> Frame | None:
        """The frame of a number, in use or free; None if it is none of this pool."""
        index = number - self._first
        return self._frames[index] if 0 <= index < len(self._frames) else None

    def get(self, frame: Frame) -> None:
        frame.references += 1

    def put(self, frame: Frame) -> None:
        """Drop a reference; the last one frees the frame."""
        frame.references -= 1
        if frame.references == 0:
            self.free(frame)

    def free(self, frame: Frame) -> None:
        frame.poison()
        frame.cache = None
        frame.pins = 0
        self.live.pop(frame.number, None)
        self._free.append(frame)

    def copy(self, source: Frame, target: Frame) -> None:
        """Copy the words, by the processor."""
        target.load(Contents(source.fill, source.chunks))


class SwapStore:
    """Contents of reclaimed anonymous pages, in slots that count their users."""

    def __init__(self) -> None:
        self._slots: dict[int, Contents] = {}
        self._users: dict[int, int] = {}
        self._next = 1

    def store(self, contents: Contents) -> int:
        """A new slot with one user."""
        slot = self._next
        self._next += 1
        self._slots[slot] = contents
        self._users[slot] = 1
        return slot

    def load(self, slot: int) -> Contents:
        return self._slots[slot]

    def get(self, slot: int) -> None:
        self._users[slot] += 1

    def put(self, slot: int) -> None:
        self._users[slot] -= 1
        if self._users[slot] == 0:
            del self._users[slot], self._slots[slot]

    def __len__(self) -> int:
        return len(self._slots)
