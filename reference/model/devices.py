"""What devices do besides accesses: attach, register, fault in, migrate, and be invalidated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..operations import Flag, Kind, Operation
from ..outcomes import Outcome
from .areas import EAGAIN, must_fail, must_succeed, pages_of
from .history import EXCLUSIVE, HOLE, ON_DEVICE, ON_DEVICE_0, REFUSED, RETURNED
from .memory import RIGHTS, AddressSpace, Slot, surely_unmapped
from .page import Page
from .plain import ERROR, OK, READ_WRITE, UNSUPPORTED
from .reach import maybe_copied, reachable, surely_reachable
from .state import Broken, Problem, Registration, State

__all__ = ["DEVICE_CALLS", "device_call"]


def attach(state: State, operation: Operation, outcome: Outcome) -> None:
    if outcome.status == OK:
        state.attached[operation.device] = operation.process
        state.history.attach(operation.device, operation.process)


def detach(state: State, operation: Operation, outcome: Outcome) -> None:
    if operation.device not in state.attached:
        return
    must_succeed(operation, outcome.status == OK)
    process = state.attached.pop(operation.device)
    state.history.detach(operation.device)
    for key in [key for key in state.registrations if key[0] == operation.device]:
        del state.registrations[key]
    here = ON_DEVICE_0 << operation.device
    for page, mark in enumerate(state.history.marks[process]):
        if mark & here:
            state.history.marks[process][page] = mark & ~here | RETURNED


def register(state: State, operation: Operation, outcome: Outcome) -> None:
    space = state.mirrored(operation.device)
    succeeded = outcome.status == OK
    name = (operation.device, operation.key)
    if space is None or name in state.registrations:
        must_fail(operation, succeeded, "the key is live" if space else "the process has exited")
        return
    rights = operation.flags & RIGHTS
    _check_range(state, operation, succeeded, space, rights)
    if succeeded and state.sync.pins:
        pinned = [_copied(space, page, rights) for page in pages_of(operation)]
    else:
        pinned = [() for _ in pages_of(operation)]
        _may_copy(space, operation)
    if succeeded:
        state.registrations[name] = Registration(operation.page, rights, pinned)
        for page in pages_of(operation):
            state.history.device_access(operation.device, state.attached[operation.device], page)


def _check_range(
    state: State, operation: Operation, succeeded: bool, space: AddressSpace, rights: int
) -> None:
    """A range operation succeeds exactly if every page allows these rights."""
    pages = pages_of(operation)
    if succeeded:
        for page in pages:
            if not reachable(space.slots[page], rights):
                message = f"page {page} does not give these rights"
                raise Broken(Problem.NO_FAULT, message, page=page)
    elif not state.excused and all(surely_reachable(space.slots[page], rights) for page in pages):
        message = "every page of the range gives these rights, but it was refused"
        raise Broken(Problem.FAULT, message, page=operation.page)
    state.history.exercised["A2" if succeeded else "A1"] += 1


def _may_copy(space: AddressSpace, operation: Operation) -> None:
    """Private file pages in the range may have been faulted in for writing."""
    for page in pages_of(operation):
        maybe_copied(space, page)


def _copied(space: AddressSpace, page: int, rights: int) -> tuple[Page, ...]:
    """The contents of a page whose copy-on-write is broken: by a write fault, or a long-term pin.

    A long-term pin breaks it for reading too (mm/gup.c, since Linux 6.2).
    """
    slot = tuple(m for m in space.slots[page] if m is not None and m.may & rights == rights)
    space.slots[page] = slot
    contents = dict.fromkeys(mapping.break_cow(whole=True) for mapping in slot)
    return tuple(page for page in contents if page is not None)


def unregister(state: State, operation: Operation, outcome: Outcome) -> None:
    name = (operation.device, operation.key)
    succeeded = outcome.status == OK
    if name not in state.registrations:
        must_fail(operation, succeeded, "there is no such registration")
        return
    if state.mirrored(operation.device) is not None:
        must_succeed(operation, succeeded)
    del state.registrations[name]


def fault(state: State, operation: Operation, outcome: Outcome) -> None:
    """hmm_range_fault: H3 says when it succeeds; a write fault breaks copy-on-write."""
    space = state.mirrored(operation.device)
    succeeded = outcome.status == OK
    if space is None:
        must_fail(operation, succeeded, "the process has exited")
        return
    rights = operation.flags & RIGHTS
    _check_range(state, operation, succeeded, space, rights)
    state.history.exercised["H3"] += 1
    if not succeeded:
        _may_copy(space, operation)
        return
    for page in pages_of(operation):
        if rights == READ_WRITE:
            _copied(space, page, rights)
        else:
            maybe_copied(space, page)
        state.history.device_access(operation.device, state.attached[operation.device], page)


def to_device(state: State, operation: Operation, outcome: Outcome) -> None:
    """migrate_vma is best effort (G2): what is refused stays as it is."""
    process = state.attached[operation.device]
    space = state.mirrored(operation.device)
    if space is None:
        return
    marks = state.history.marks[process]
    for page in pages_of(operation):
        if outcome.status != OK:
            marks[page] |= REFUSED
        elif not surely_unmapped(space.slots[page]):
            marks[page] = (ON_DEVICE_0 << operation.device) | _hole(space.slots[page])
    if outcome.status == OK:
        state.history.event(process, pages_of(operation), operation.kind)


def _hole(slot: Slot) -> int:
    """`Mark.HOLE` for private memory that was never written."""
    own = slot[0].own if slot[0] is not None else None
    return HOLE if own is not None and own.blank else 0


def to_system(state: State, operation: Operation, outcome: Outcome) -> None:
    if outcome.status != OK:
        return
    process = state.attached[operation.device]
    marks = state.history.marks[process]
    for page in pages_of(operation):
        if marks[page] & ON_DEVICE:
            marks[page] = RETURNED
    state.history.event(process, pages_of(operation), operation.kind)


def exclusive(state: State, operation: Operation, outcome: Outcome) -> None:
    """It faults the pages in for writing: mm/rmap.c, make_device_exclusive_range (Linux 6.12)."""
    space = state.mirrored(operation.device)
    if space is not None:
        _may_copy(space, operation)
    if outcome.status != OK:
        return
    process = state.attached[operation.device]
    for page in pages_of(operation):
        state.history.marks[process][page] |= EXCLUSIVE
    state.history.event(process, pages_of(operation), operation.kind)


def invalidate(state: State, operation: Operation, outcome: Outcome) -> None:
    if outcome.status == ERROR:
        if not operation.flags & Flag.NONBLOCK:
            raise Broken(Problem.REFUSED, "a blockable invalidation was refused")
        if outcome.error != EAGAIN:
            raise Broken(Problem.REFUSED, f"refused with errno {outcome.error}, not EAGAIN")
        return
    if outcome.status == OK:
        state.history.event(operation.process, pages_of(operation), operation.kind)


_FUNCTIONS: Final[dict[Kind, Callable[[State, Operation, Outcome], None]]] = {
    Kind.ATTACH: attach,
    Kind.DETACH: detach,
    Kind.REGISTER: register,
    Kind.UNREGISTER: unregister,
    Kind.FAULT: fault,
    Kind.TO_DEVICE: to_device,
    Kind.TO_SYSTEM: to_system,
    Kind.EXCLUSIVE: exclusive,
    Kind.INVALIDATE: invalidate,
}
DEVICE_CALLS: Final = {int(kind): function for kind, function in _FUNCTIONS.items()}


def device_call(state: State, operation: Operation, outcome: Outcome) -> None:
    """Judge a device operation that is no access, and take over what it did."""
    if outcome.status == UNSUPPORTED:
        return
    if outcome.done or outcome.data:
        raise Broken(Problem.ANSWER, "the outcome of an access, for what is none")
    kind = operation.kind
    if operation.device in state.attached or kind in _UNATTACHED:
        DEVICE_CALLS[kind](state, operation, outcome)


_UNATTACHED: Final = frozenset(map(int, (Kind.ATTACH, Kind.INVALIDATE)))
"""What needs no device that is attached already."""
