"""Who has used a page lately: reclaim, DAMON and khugepaged ask the devices (Y1, Y2, Y3).

The processor's own accessed bits are not simulated: they count as clear.  Where nobody has a
callback nobody is asked, and nothing here is a protocol point.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reference.mirrors.frames import Frame
from reference.mirrors.memory import PageTableEntry

from .host import Host
from .space import AddressSpace

__all__ = ["is_hot", "is_referenced", "look_for_young"]


def is_referenced(host: Host, frames: Iterable[Frame]) -> bool:
    """`folio_referenced` of mm/rmap.c: whether a device has used pages since this was asked last.

    Reclaim keeps such pages for another round, as `folio_check_references` of mm/vmscan.c says.
    All mappings are asked, since each has to clear its bits; a huge page is asked about as one.
    """
    answers = [
        space.subscriptions.clear_flush_young(start, end)
        for space, start, end in _mapped_at(host, frames)
    ]
    return any(answers)


def is_hot(host: Host, frame: Frame | None) -> bool:
    """Whether a page is used between one look at it and the next, so that it is not migrated.

    As DAMON does for its scheme `migrate_cold`, in mm/damon/paddr.c: `damon_folio_mkold` makes
    the page old, and `damon_folio_young` finds out later whether it has become young again.
    """
    frames = [] if frame is None else [frame]
    for space, start, end in _mapped_at(host, frames):
        space.subscriptions.clear_young(start, end)
    places = _mapped_at(host, frames)
    return any(space.subscriptions.test_young(start) for space, start, _ in places)


def look_for_young(space: AddressSpace, slots: range) -> None:
    """Ask about the pages of a range that is to become a huge page, as khugepaged does.

    `hpage_collapse_scan_pmd` of mm/khugepaged.c wants one young page; the host, like
    MADV_COLLAPSE, does without.
    """
    host = space.host
    for slot in slots:
        if slot in space.table:
            space.subscriptions.test_young(host.address(slot))


def _mapped_at(host: Host, frames: Iterable[Frame]) -> list[tuple[AddressSpace, int, int]]:
    """Address spaces with start and end of what maps frames in them, in order."""
    units = {unit for frame in frames for entry in frame.mappings for unit in _unit(entry)}
    return [
        (host.spaces[number], host.address(first), host.address(end))
        for number, first, end in sorted(units)
        if number in host.spaces
    ]


def _unit(entry: PageTableEntry) -> Iterator[tuple[int, int, int]]:
    """Address space and slots of the page, or of the huge page, that an entry is a part of."""
    huge = entry.huge
    if huge is not None and huge.whole:
        yield entry.space.number, huge.first, huge.end
    else:
        yield entry.space.number, entry.slot, entry.slot + 1
