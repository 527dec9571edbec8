"""Where an access may go: through the rights of a mapping, and for keyed devices through a key."""

from __future__ import annotations

from ..operations import Operation
from .memory import AddressSpace, Mapping, Slot
from .page import Page
from .plain import ATTACH, READ_WRITE
from .state import Registration, State

__all__ = ["Way", "maybe_copied", "permits", "reachable", "surely_reachable", "way_of"]


def permits(mapping: Mapping, need: int) -> bool:
    """Whether an access with these needs may succeed: the rights, and the end of the file."""
    file = mapping.file
    return mapping.may & need == need and (file is None or mapping.index < file.pages)


def permitting(slot: Slot, need: int) -> list[Mapping]:
    """The mappings of a slot through which an access with these needs may succeed."""
    return [m for m in slot if m is not None and permits(m, need)]


def reachable(slot: Slot, need: int) -> bool:
    """Whether an access that needs these rights may succeed at a page."""
    return bool(permitting(slot, need))


def surely_reachable(slot: Slot, need: int) -> bool:
    """Whether an access that needs these rights must succeed at a page."""
    for mapping in slot:
        if mapping is None or mapping.must & need != need or not permits(mapping, need):
            return False
    return bool(slot)


def maybe_copied(space: AddressSpace, page: int, first: int = 0, count: int | None = None) -> None:
    """A private file page may have got its own copy: from here on both are possible.

    All copies that it may have got at some time are kept as one, so that there are never more.
    With `first` and `count` only those words were touched, and the rest of a large page that has
    a copy already may still be the file's.
    """
    slot = space.slots[page]
    for mapping in slot:
        if mapping is None:
            continue
        if mapping.own is not None:
            mapping.own.may_claim(first, count)
            continue
        contents = None if mapping.shared else mapping.page()
        if contents is None:
            continue
        twin = _copy_of(mapping, slot)
        if twin is None:
            copy = mapping.copy()
            copy.break_cow()
            space.slots[page] = (*space.slots[page], copy)
        elif twin.own is not None and not twin.own.same(contents):
            twin.may, twin.must = twin.may | mapping.may, twin.must & mapping.must
            twin.own.mix(contents)


def _copy_of(mapping: Mapping, slot: Slot) -> Mapping | None:
    """A mapping in the slot that has a private copy of the same page."""
    for other in slot:
        if other is not None and other.own is not None:
            if (other.file, other.index) == (mapping.file, mapping.index):
                return other
    return None


class Way:
    """The way of one access to memory: through the mappings, and perhaps through a key."""

    __slots__ = ("need", "pinned", "registration", "shut", "space", "whole")

    def __init__(self, space: AddressSpace, need: int) -> None:
        self.space = space
        self.need = need
        self.registration: Registration | None = None
        self.pinned = False
        """The key leads to what was there when it was registered."""
        self.shut = False
        """The key does not allow the access."""
        self.whole = True
        """Every page of the buffer is valid, as far as the sync model asks for that."""

    def through_key(self, state: State, operation: Operation) -> None:
        """The access goes through its key, which must be registered for all of it."""
        registration = state.registrations.get((operation.device, operation.key))
        if registration is not None and state.sync.revalidates:
            # A buffer is made valid as a whole, also for an access that lies outside of it.
            self._revalidate(registration)
        end = operation.page * state.geometry.page_size + operation.offset + operation.length
        last = (end - 1) // state.geometry.page_size
        if (
            registration is None
            or not registration.covers(operation.page, last)
            or registration.rights & self.need != self.need
        ):
            self.shut = True
            return
        self.registration = registration
        self.pinned = state.sync.pins

    def _revalidate(self, registration: Registration) -> None:
        """Every use of a buffer faults all of it in, with the buffer's rights."""
        for page in registration.pages:
            if not surely_reachable(self.space.slots[page], registration.rights):
                self.whole = False
            maybe_copied(self.space, page)

    def may(self, page: int) -> bool:
        """Whether the access may succeed at this page."""
        # A pin outlives rights and mapping alike, so the access may go through it.
        return not self.shut and (self.pinned or reachable(self.space.slots[page], self.need))

    def must(self, page: int) -> bool:
        """Whether the access must succeed at this page."""
        # Through a pin only while that is what is mapped there, with the rights asked for.
        return (
            not self.shut
            and self.whole
            and surely_reachable(self.space.slots[page], self.need)
            and not (self.pinned and self.stale(page))
        )

    def stale(self, page: int) -> tuple[Page, ...]:
        """Pinned pages that are not, or not surely, what is mapped there now.

        A shared page is not what a private mapping of it that came later would be written by.
        """
        if not self.pinned or self.registration is None:
            return ()
        pinned = self.registration.pinned[page - self.registration.first]
        slot = self.space.slots[page]
        current = {None if m is None else m.page() for m in slot}
        if len(pinned) != 1 or current != set(pinned):
            return pinned
        copies = self.need == READ_WRITE and any(m is not None and m.through for m in slot)
        return pinned if copies else ()

    def contents(self, page: int, *, stores: bool) -> list[Page]:
        """Contents that the access may have gone to, now that it is known to have succeeded.

        Settles what the success tells about the mapping; one that stores breaks copy-on-write.
        """
        stale = self.stale(page)
        if stale:
            return self._stale_contents(page, stale, stores=stores)
        if self.pinned and self.registration is not None:
            return list(self.registration.pinned[page - self.registration.first])
        found = []
        mappings = permitting(self.space.slots[page], self.need)
        self.space.slots[page] = tuple(mappings)
        for mapping in mappings:
            mapping.must |= self.need
            found.append(mapping.break_cow() if stores else mapping.page())
        return [page for page in dict.fromkeys(found) if page is not None]

    def _stale_contents(self, page: int, stale: tuple[Page, ...], *, stores: bool) -> list[Page]:
        if stores:
            maybe_copied(self.space, page)
        mapped = [m.page() for m in self.space.slots[page] if m is not None]
        found = dict.fromkeys([*stale, *mapped])
        return [page for page in found if page is not None]


def way_of(state: State, operation: Operation, space: AddressSpace, need: int) -> Way:
    """The way of an access, through its key if it needs one."""
    way = Way(space, need)
    if operation.kind >= ATTACH and (operation.key or state.keyed):
        way.through_key(state, operation)
    return way
