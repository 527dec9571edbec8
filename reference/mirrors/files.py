"""Files: a page cache over a store."""

from __future__ import annotations

from .frames import Contents, Frame, FramePool

__all__ = ["PageCache"]


class PageCache:
    """A file, or the object behind a shared anonymous mapping; sizes are in pages.

    The latter is `unnamed` and is gone with the last of its `users`, the slots that map it.
    """

    def __init__(self, pool: FramePool, size: int, *, unnamed: bool = False) -> None:
        self.size = size
        self.unnamed = unnamed
        self.users = 0
        self._pool = pool
        self._frames: dict[int, Frame] = {}
        self._store: dict[int, Contents] = {}

    def lookup(self, page: int) -> Frame | None:
        """The frame of a page, read from the store if need be; None beyond the end."""
        if page >= self.size:
            return None
        return self._frames.get(page) or self._read(page)

    def _read(self, page: int) -> Frame | None:
        frame = self._pool.allocate()
        if frame is None:
            return None
        if page in self._store:
            frame.load(self._store[page])
        else:
            frame.clear()
        self._insert(page, frame)
        return frame

    def _insert(self, page: int, frame: Frame) -> None:
        frame.cache = (self, page)
        self._frames[page] = frame
        self._pool.get(frame)

    def replace(self, page: int, frame: Frame) -> None:
        """Put another frame with the same words in a page's place."""
        self._forget(page)
        self._insert(page, frame)

    def write_back(self, page: int) -> None:
        """Drop a page that is mapped nowhere from the cache, after saving it."""
        frame = self._frames[page]
        if frame.dirty:
            self._store[page] = frame.contents()
        self._forget(page)

    def erase(self, page: int) -> None:
        """Make a page that is mapped nowhere zero.  Who has its frame pinned keeps that."""
        if page in self._frames:
            self._forget(page)
        self._store.pop(page, None)

    def truncate(self, size: int) -> None:
        """Set the size; what lies behind it is gone."""
        for page in [*self._frames, *self._store]:
            if page >= size:
                self.erase(page)
        self.size = size

    def _forget(self, page: int) -> None:
        frame = self._frames.pop(page)
        frame.cache = None
        self._pool.put(frame)
