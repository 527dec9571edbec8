"""Words as a candidate gives them: eight bytes each, little-endian."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

from ..operations import WORD
from .values import MASK

__all__ = ["bytes_of", "stamps", "words_of"]


@lru_cache(maxsize=1024)
def _layout(count: int) -> Struct:
    return Struct(f"<{count}Q")


def words_of(data: bytes | bytearray) -> tuple[int, ...]:
    """The words in data of a whole number of words."""
    return _layout(len(data) // WORD).unpack(data)


def bytes_of(words: Sequence[int]) -> bytes:
    """The reverse of `words_of`."""
    return _layout(len(words)).pack(*words)


def stamps(value: int, count: int) -> Sequence[int]:
    """What a write of `value` stores in its words: the next number in each."""
    if value + count <= MASK + 1:
        return range(value, value + count)
    return [(value + k) & MASK for k in range(count)]
