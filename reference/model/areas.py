"""The memory management calls of a process: what they may answer, and what they leave.

Sources are the manual pages mmap(2), mremap(2), mprotect(2), madvise(2), ftruncate(2), fork(2)
and, where those are silent, mm/ of Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..operations import EVENTS, Flag, Kind, Operation
from ..outcomes import Outcome
from .memory import (
    RIGHTS,
    UNMAPPED,
    AddressSpace,
    File,
    Mapping,
    Slot,
    surely_mapped,
    surely_unmapped,
    uniform,
)
from .page import Page
from .plain import ERROR, FAULT, OK, UNSUPPORTED
from .state import Broken, Problem, State

__all__ = ["CALLS"]

EAGAIN: Final = 11
# Plain numbers: arithmetic with enumerations is slow.
_WRITE: Final = int(Flag.WRITE)
_SHARED: Final = int(Flag.SHARED)
_FILE: Final = int(Flag.FILE)
_DONTUNMAP: Final = int(Flag.DONTUNMAP)

Call = Callable[[State, Operation, bool, AddressSpace], None]


def must_succeed(operation: Operation, succeeded: bool) -> None:
    """The call has no reason to fail."""
    if not succeeded:
        name = Kind(operation.kind).name.lower()
        raise Broken(Problem.CALL, f"{name} must succeed", page=operation.page)


def must_fail(operation: Operation, succeeded: bool, reason: str) -> None:
    """The call cannot succeed, for this reason."""
    if succeeded:
        name = Kind(operation.kind).name.lower()
        raise Broken(Problem.CALL, f"{name} must fail: {reason}", page=operation.page)


def pages_of(operation: Operation) -> range:
    return range(operation.page, operation.page + operation.pages)


def target_of(operation: Operation) -> range:
    return range(operation.target, operation.target + operation.pages)


def either(*slots: Slot) -> Slot:
    """A slot of which it is unknown which of these it is."""
    return tuple(dict.fromkeys(mapping for slot in slots for mapping in slot))


def map_(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    must_succeed(operation, succeeded)
    shared = bool(operation.flags & _SHARED)
    file: File | None = None
    if operation.flags & _FILE:
        file = state.files[operation.file]
    elif shared:
        file = File(operation.pages, state.geometry.page_size)
    area, rights = state.next_area(), operation.flags & RIGHTS
    for index, page in enumerate(pages_of(operation)):
        own = Page() if file is None else None
        mapping = Mapping(rights, (area, index), file, operation.target + index, own, shared=shared)
        space.slots[page] = (mapping,)


def unmap(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    must_succeed(operation, succeeded)
    for page in pages_of(operation):
        space.slots[page] = UNMAPPED


def remap(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    source, target = pages_of(operation), target_of(operation)
    if abs(source.start - target.start) < operation.pages:
        must_fail(operation, succeeded, "source and destination overlap")
        return
    old = [space.slots[page] for page in source]
    if succeeded:
        if surely_unmapped(old[0]):
            must_fail(operation, succeeded, "nothing is mapped at the source")
        _moved(state, operation, space, old)
        return
    dontunmap = bool(operation.flags & _DONTUNMAP)
    plain = all(m is not None and m.private_anonymous for slot in old for m in slot)
    if uniform(old) and (plain or not dontunmap):
        must_succeed(operation, succeeded)
    _half_moved(space, source, target)


def _moved(state: State, operation: Operation, space: AddressSpace, old: list[Slot]) -> None:
    one_area = state.next_area() if uniform(old) else None
    for index, slot in enumerate(old):
        source, target = operation.page + index, operation.target + index
        landed: Slot = tuple([m for m in slot if m is not None])
        for mapping in landed:
            if mapping is not None:
                mapping.area = (one_area or state.next_area(), index)
        left = _left_behind(operation, slot)
        if not surely_mapped(slot):
            # Newer kernels (6.17) move several areas with the gaps between them; what is at the
            # destination of a gap afterwards is not said.
            landed = either(landed, space.slots[target], UNMAPPED)
        space.slots[source] = left
        space.slots[target] = landed


def _left_behind(operation: Operation, slot: Slot) -> Slot:
    if operation.flags & _DONTUNMAP:
        return tuple([None if m is None else m.fresh() for m in slot])
    return UNMAPPED


def _half_moved(space: AddressSpace, source: range, target: range) -> None:
    """A failed move may have unmapped the destination, and moved some areas."""
    for here, there in zip(source, target, strict=True):
        old = space.slots[here]
        space.slots[there] = either(space.slots[there], UNMAPPED, _twins(old))
        fresh = tuple(None if m is None else m.fresh() for m in old)
        space.slots[here] = either(old, UNMAPPED, fresh)


def _twins(slot: Slot) -> Slot:
    return tuple(None if mapping is None else mapping.copy() for mapping in slot)


def protect(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    slots = space.slots
    pages = pages_of(operation)
    holes = [page for page in pages if surely_unmapped(slots[page])]
    if succeeded:
        if holes:
            must_fail(operation, succeeded, f"page {holes[0]} is not mapped")
    elif all(surely_mapped(slots[page]) for page in pages):
        must_succeed(operation, succeeded)
    rights = operation.flags & RIGHTS
    reached = pages if succeeded or not holes else range(operation.page, holes[0])
    areas: dict[int, int] = {}
    for page in reached:
        if succeeded:
            slots[page] = tuple([mapping for mapping in slots[page] if mapping is not None])
        for mapping in slots[page]:
            if mapping is not None:
                mapping.may = rights if succeeded else mapping.may | rights
                mapping.must = rights if succeeded else mapping.must & rights
                _split(state, mapping, areas)


def _split(state: State, mapping: Mapping, areas: dict[int, int]) -> None:
    """The range may have become an area of its own, and need not merge again later."""
    area, index = mapping.area
    if area not in areas:
        areas[area] = state.next_area()
    mapping.area = (areas[area], index)


def discard(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    slots = space.slots
    pages = pages_of(operation)
    _check_holes(operation, succeeded, [slots[page] for page in pages])
    for page in pages:
        fresh = tuple([None if m is None else m.fresh() for m in slots[page]])
        if succeeded:
            slots[page] = tuple([mapping for mapping in fresh if mapping is not None])
        elif any(m is not None and not m.shared for m in slots[page]):
            slots[page] = either(slots[page], fresh)


def _check_holes(operation: Operation, succeeded: bool, slots: list[Slot]) -> None:
    if succeeded and any(map(surely_unmapped, slots)):
        must_fail(operation, succeeded, "part of the range is not mapped")
    if not succeeded and all(map(surely_mapped, slots)):
        must_succeed(operation, succeeded)


def punch(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    slots = [space.slots[page] for page in pages_of(operation)]
    if succeeded and not all(any(m is not None and m.shared for m in slot) for slot in slots):
        must_fail(operation, succeeded, "part of the range is not a shared mapping")
    if not succeeded and all(map(_punchable, slots)):
        must_succeed(operation, succeeded)
    for slot in slots:
        for mapping in slot:
            if mapping is not None and mapping.shared and mapping.file is not None:
                _punch_file(
                    state, mapping.file, mapping.index, certain=succeeded and len(slot) == 1
                )


def _punchable(slot: Slot) -> bool:
    return all(m is not None and m.shared and m.must & _WRITE for m in slot)


def _punch_file(state: State, file: File, index: int, *, certain: bool) -> None:
    old = file.page(index)
    if old is None:
        return
    if certain:
        file.contents[index] = Page()
        return
    old.mix(Page())
    # If the hole was punched, a pin of the old page is no longer a pin of the one in the file.
    old.doubtful = bool(state.registrations or state.in_flight)


def free(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    slots = [space.slots[page] for page in pages_of(operation)]
    if succeeded and not all(
        any(m is not None and m.private_anonymous for m in slot) for slot in slots
    ):
        must_fail(operation, succeeded, "part of the range is not private anonymous memory")
    if not succeeded and all(m is not None and m.private_anonymous for s in slots for m in s):
        must_succeed(operation, succeeded)
    for slot in slots:
        for mapping in slot:
            if mapping is not None and mapping.private_anonymous and mapping.own is not None:
                mapping.own.free_lazily()


def truncate(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    must_succeed(operation, succeeded)
    file = state.files[operation.file]
    file.truncate(operation.pages)
    for other in state.spaces:
        if other is not None:
            for mapping in other.mappings():
                if mapping.file is file and mapping.index >= operation.pages:
                    mapping.own = None


def fork(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    if succeeded:
        state.spaces[operation.target] = space.fork()
        state.history.marks[operation.target] = [0] * state.geometry.pages


def exit_(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    must_succeed(operation, succeeded)
    state.spaces[operation.process] = None


def merge(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    """Asking for merges marks the range, which may split its areas for good."""
    areas: dict[int, int] = {}
    for page in pages_of(operation):
        for mapping in space.slots[page]:
            if mapping is not None:
                _split(state, mapping, areas)


def event(state: State, operation: Operation, succeeded: bool, space: AddressSpace) -> None:
    """Contents, rights and areas stay as they are."""


_FUNCTIONS: Final[dict[Kind, Call]] = {
    Kind.MAP: map_,
    Kind.UNMAP: unmap,
    Kind.REMAP: remap,
    Kind.PROTECT: protect,
    Kind.DISCARD: discard,
    Kind.PUNCH: punch,
    Kind.FREE: free,
    Kind.TRUNCATE: truncate,
    Kind.FORK: fork,
    Kind.EXIT: exit_,
    Kind.RECLAIM: event,
    Kind.MIGRATE: event,
    Kind.COLLAPSE: event,
    Kind.SPLIT: event,
    Kind.MERGE: merge,
}
CALLS: Final = {int(kind): function for kind, function in _FUNCTIONS.items()}


def call(state: State, operation: Operation, outcome: Outcome) -> None:
    """Judge a memory management call and take over what it did."""
    space = state.spaces[operation.process]
    status, error, done, data = outcome
    if status == UNSUPPORTED or space is None:
        return
    if status == FAULT or done or data:
        raise Broken(Problem.ANSWER, "the outcome of an access, for what is none")
    kind = operation.kind
    if status == ERROR and error == EAGAIN and kind not in _MAY_BE_BUSY:
        raise Broken(Problem.REFUSED, "refused with EAGAIN", page=operation.page)
    succeeded = status == OK
    changes = kind not in _EVENT_KINDS
    if state.attached and (succeeded or changes):
        tell(state, operation)
    CALLS[kind](state, operation, succeeded, space)
    if succeeded and changes:
        state.history.exercised["A6"] += 1
        if state.attached:
            state.history.exercised["B3"] += 1


_EVENT_KINDS: Final = frozenset(map(int, EVENTS))
_MAY_BE_BUSY: Final = _EVENT_KINDS | {int(Kind.FORK)}
"""Calls that may be refused just because a mirror is busy."""


def tell(state: State, operation: Operation) -> None:
    """Note which pages of whom the call changes, for the rules about mirrors."""
    history, kind = state.history, operation.kind
    if kind in _OF_FILES:
        _tell_file(state, operation)
    elif kind in _OF_SPACES:
        history.event(operation.process, range(state.geometry.pages), kind)
    else:
        history.event(operation.process, pages_of(operation), kind)
        if kind == _REMAP:
            history.event(operation.process, target_of(operation), kind)


_REMAP: Final = int(Kind.REMAP)
_TRUNCATE: Final = int(Kind.TRUNCATE)
_OF_SPACES: Final = frozenset(map(int, (Kind.FORK, Kind.EXIT)))
"""Calls that change all of an address space."""
_OF_FILES: Final = frozenset(map(int, (Kind.TRUNCATE, Kind.PUNCH)))
"""Calls that change a file, for everybody who has it mapped."""


def _tell_file(state: State, operation: Operation) -> None:
    files = _files_of(state, operation)
    for process in set(state.history.owner.values()):
        space = state.spaces[process]
        if space is not None:
            changed = [
                page
                for page, slot in enumerate(space.slots)
                for mapping in slot
                if mapping is not None and mapping.file in files
            ]
            state.history.event(process, changed, operation.kind)


def _files_of(state: State, operation: Operation) -> set[File]:
    if operation.kind == _TRUNCATE:
        return {state.files[operation.file]}
    space = state.spaces[operation.process]
    assert space is not None
    slots = [space.slots[page] for page in pages_of(operation)]
    return {m.file for slot in slots for m in slot if m is not None and m.file is not None}
