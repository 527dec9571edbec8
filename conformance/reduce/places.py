"""Which pages, files and address spaces operations are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reference.operations import ACCESSES, DEVICE_KINDS, Flag, Kind, Operation
from reference.signatures import SIGNATURES

__all__ = ["RANGED", "acting", "names_file", "pages_of", "places"]

RANGED = frozenset(
    kind for kind in Kind if "pages" in SIGNATURES[kind].fields and kind != Kind.TRUNCATE
)
"""Kinds that work on a number of pages."""


def pages_of(operation: Operation, page_size: int) -> range:
    """The pages that an operation names; for a remap those of its source."""
    if operation.kind in ACCESSES:
        last = operation.page + (operation.offset + operation.length - 1) // page_size
        return range(operation.page, last + 1)
    return range(operation.page, operation.page + operation.pages * (operation.kind in RANGED))


def places(operation: Operation, page_size: int) -> set[tuple[str, int]]:
    """Pages and files that an operation names."""
    found = {("page", page) for page in pages_of(operation, page_size)}
    if operation.kind == Kind.REMAP:
        target = range(operation.target, operation.target + operation.pages)
        found |= {("page", page) for page in target}
    if names_file(operation):
        found.add(("file", operation.file))
    return found


def names_file(operation: Operation) -> bool:
    """Whether the operation is about a file."""
    return operation.kind == Kind.TRUNCATE or bool(
        operation.kind == Kind.MAP and operation.flags & Flag.FILE
    )


def acting(operations: Iterable[Operation]) -> Iterator[int]:
    """For each operation the process in whose address space it acts."""
    attached: dict[int, int] = {}
    for operation in operations:
        if operation.kind == Kind.ATTACH:
            attached[operation.device] = operation.process
        by_device = operation.kind in DEVICE_KINDS - {Kind.ATTACH, Kind.INVALIDATE}
        yield attached.get(operation.device, 0) if by_device else operation.process
