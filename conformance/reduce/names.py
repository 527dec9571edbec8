"""Lower names, and values that say where they are from."""

from __future__ import annotations

from collections.abc import Sequence

from reference.operations import Kind, Operation
from reference.signatures import SIGNATURES

from .places import names_file, places
from .search import Search

__all__ = ["rename", "restamp"]

_STAMP_SHIFT, _ADDEND_SHIFT = 20, 44
"""Values as the generator stamps them."""
_ADDENDS = frozenset({Kind.ADD, Kind.DADD})
_RUN = 1 << 19
"""Values that one write may store in a row."""


def rename(search: Search) -> None:
    """Pages, processes, devices, files, keys and jobs become the lowest, in order of use."""
    search.attempt(_renamed(search.operations, search.program.geometry.page_size))


def _renamed(operations: Sequence[Operation], page_size: int) -> list[Operation]:
    pages = _page_names(operations, page_size)
    # Process 0 is there from the start; 0 as a key or job is none.
    processes: dict[int, int] = {0: 0}
    names: dict[str, dict[int, int]] = {"device": {}, "file": {}, "key": {0: 0}, "job": {0: 0}}
    renamed = []
    for operation in operations:
        fields = SIGNATURES[Kind(operation.kind)].fields
        changes: dict[str, int] = {}
        for name, known in names.items():
            if name in fields and (name != "file" or names_file(operation)):
                old = getattr(operation, name)
                changes[name] = known.setdefault(old, len(known))
        if "process" in fields:
            changes["process"] = processes.setdefault(operation.process, len(processes))
        if operation.kind == Kind.FORK:
            changes["target"] = processes.setdefault(operation.target, len(processes))
        if "page" in fields:
            changes["page"] = pages[operation.page]
        if operation.kind == Kind.REMAP:
            changes["target"] = pages[operation.target]
        renamed.append(operation._replace(**changes))
    return renamed


def _page_names(operations: Sequence[Operation], page_size: int) -> dict[int, int]:
    """New numbers for pages: order and neighbourhood stay, gaps of unused pages close."""
    named = [place for each in operations for place in places(each, page_size)]
    used = {number for kind, number in named if kind == "page"}
    names: dict[int, int] = {}
    following = 0
    for page in range(max(used, default=0) + 1):
        names[page] = following
        following += page in used
    return names


def restamp(search: Search) -> None:
    """Values by position, so that a program says which write a value is from."""
    search.attempt(_restamped(search.operations))


def _restamped(operations: Sequence[Operation]) -> list[Operation]:
    new: dict[int, int] = {}
    restamped = []
    for number, operation in enumerate(operations, start=1):
        changes: dict[str, int] = {}
        fields = SIGNATURES[Kind(operation.kind)].fields
        if "expected" in fields:
            base = max((old for old in new if old <= operation.expected), default=None)
            if base is not None and operation.expected - base < _RUN:
                changes["expected"] = new[base] + operation.expected - base
        if "value" in fields:
            shift = _ADDEND_SHIFT if operation.kind in _ADDENDS else _STAMP_SHIFT
            new[operation.value] = changes["value"] = number << shift
        restamped.append(operation._replace(**changes))
    return restamped
