"""Memory of a driver in C, by address: what may be NULL, words, and what may be on the stack."""

from __future__ import annotations

import ctypes

from reference.host.broken import Broken

__all__ = ["required", "set_word", "set_words", "shared", "word", "words"]

_STACK = 64 << 10
"""Bytes around a frame that are stack for sure."""


def required(address: int | None, service: str) -> int:
    """An address that a service was given; `Broken` if it is NULL."""
    if not address:
        raise Broken("W6", f"{service} of NULL")
    return address


def shared(address: int | None, frame: int, service: str) -> int:
    """The address of what other tasks will use, which cannot lie on the stack."""
    address = required(address, service)
    if abs(address - frame) < _STACK:
        raise Broken("W6", f"{service}: on the stack, where no other task can see it")
    return address


def word(address: int) -> int:
    """The 64 bits there."""
    return ctypes.c_uint64.from_address(address).value


def set_word(address: int, value: int) -> None:
    """Write 64 bits there."""
    ctypes.c_uint64.from_address(address).value = value


def words(address: int, count: int) -> list[int]:
    """An array of 64 bits each."""
    return list((ctypes.c_uint64 * count).from_address(address))


def set_words(address: int, values: list[int]) -> None:
    """Write an array of 64 bits each."""
    ctypes.memmove(address, (ctypes.c_uint64 * len(values))(*values), 8 * len(values))
