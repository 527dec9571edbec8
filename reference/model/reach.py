"""Where an access may go: through the rights of a mapping, and for keyed devices through a key."""

from __future__ import annotations

from dataclasses import dataclass

from ..operations import Flag, Kind, Operation
from .memory import AddressSpace, Mapping, Slot
from .page import Page
from .state import Registration, State

__all__ = ["READ", "READ_WRITE", "Reach", "Way", "maybe_copied", "reach_of"]

READ = int(Flag.READ)
READ_WRITE = int(Flag.READ | Flag.WRITE)


@dataclass
class Reach:
    """What an access may do at one page."""

    may: bool
    must: bool


_SHUT = Reach(may=False, must=False)


def permits(mapping: Mapping, need: int) -> bool:
    """Whether an access with these needs may succeed: the rights, and the end of the file."""
    file = mapping.file
    return mapping.may & need == need and (file is None or mapping.index < file.pages)


def reach_of(space: AddressSpace, page: int, need: int) -> Reach:
    """What an access that needs these rights may do at a page of an address space."""
    may, must = False, True
    for mapping in space.slots[page]:
        if mapping is None or not permits(mapping, need):
            must = False
        else:
            may = True
            must = must and mapping.must & need == need
    return Reach(may, must and may)


def maybe_copied(space: AddressSpace, page: int) -> None:
    """A private file page may have got its own copy: from here on both are possible.

    All copies that it may have got at some time are kept as one, so that there are never more.
    """
    slot = space.slots[page]
    for mapping in slot:
        contents = mapping.page() if mapping is not None and mapping.through else None
        if mapping is None or contents is None:
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
    """The way of one access to memory."""

    def __init__(self, state: State, operation: Operation, space: AddressSpace, need: int) -> None:
        self.space = space
        self.need = need
        self.registration: Registration | None = None
        self.shut = False
        self.whole = True
        """Every page of the buffer is valid, as far as the sync model asks for that."""
        self.pins = state.sync.pins
        if operation.kind >= Kind.ATTACH and (operation.key or self.pins or state.sync.revalidates):
            self._through_key(state, operation)

    def _through_key(self, state: State, operation: Operation) -> None:
        registration = state.registrations.get((operation.device, operation.key))
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
        if state.sync.revalidates:
            self._revalidate(registration)

    def _revalidate(self, registration: Registration) -> None:
        """Every use of a buffer faults all of it in, with the buffer's rights."""
        for page in registration.pages:
            self.whole &= reach_of(self.space, page, registration.rights).must
            maybe_copied(self.space, page)

    def reach(self, page: int) -> Reach:
        """What the access may do at this page."""
        if self.shut:
            return _SHUT
        reach = reach_of(self.space, page, self.need)
        reach.must = reach.must and self.whole
        if self.pins and self.registration is not None:
            # The pin outlives rights and mapping alike: the access may go through it, but only
            # while it is what is mapped there with the rights asked for must it do so.
            reach = Reach(may=True, must=reach.must and not self.stale(page))
        return reach

    def stale(self, page: int) -> tuple[Page, ...]:
        """Pinned pages that are not, or not surely, what is mapped there now."""
        if self.registration is None or not self.pins:
            return ()
        pinned = self.registration.pinned[page - self.registration.first]
        current = {None if m is None else m.page() for m in self.space.slots[page]}
        return () if current == set(pinned) and len(pinned) == 1 else pinned

    def contents(self, page: int, *, stores: bool) -> list[Page]:
        """Contents that the access may have gone to, now that it is known to have succeeded.

        Settles what the success tells about the mapping; one that stores breaks copy-on-write.
        """
        stale = self.stale(page)
        if stale:
            return self._stale_contents(page, stale, stores=stores)
        if self.registration is not None and self.pins:
            return list(self.registration.pinned[page - self.registration.first])
        slot = tuple(m for m in self.space.slots[page] if m is not None and permits(m, self.need))
        self.space.slots[page] = slot
        found = []
        for mapping in slot:
            mapping.must |= self.need
            found.append(mapping.break_cow() if stores else mapping.page())
        return [page for page in dict.fromkeys(found) if page is not None]

    def _stale_contents(self, page: int, stale: tuple[Page, ...], *, stores: bool) -> list[Page]:
        if stores:
            maybe_copied(self.space, page)
        mapped = [m.page() for m in self.space.slots[page] if m is not None]
        found = dict.fromkeys([*stale, *mapped])
        return [page for page in found if page is not None]
