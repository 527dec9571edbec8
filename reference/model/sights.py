"""What a device may be shown of a page: its rights, the place that it is in, and that it is zero.

Kept only for programs with a `snapshot`.  All of it errs on one side: a page may be in more
places than it is, and fewer pages are known to be shared than are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ..geometry import Geometry
from ..operations import CPU_ACCESSES, DEVICE_ACCESSES, WORD, Flag, Kind, Operation
from ..outcomes import Outcome, Seen, seen_text
from .accesses import pieces
from .areas import pages_of, target_of
from .memory import AddressSpace, Slot
from .page import GRANULE, Page
from .plain import OK, READ, READ_WRITE, SKIPPED, UNSUPPORTED
from .reach import permitting, reachable
from .state import Broken, Problem, State
from .values import holds

__all__ = ["Sights"]

Place = tuple[int, int]
"""A page of an address space: process and slot."""

# Plain numbers: arithmetic with enumerations is slow.
_READ: Final = int(Seen.READ)
_WRITE: Final = int(Seen.WRITE)
_SYSTEM: Final = int(Seen.SYSTEM)
_HERE: Final = int(Seen.HERE)
_ELSEWHERE: Final = int(Seen.ELSEWHERE)
_ZERO: Final = int(Seen.ZERO)
_PLACES: Final = _SYSTEM | _HERE | _ELSEWHERE
_KNOWN: Final = sum(Seen)
_DONTUNMAP: Final = int(Flag.DONTUNMAP)
_MAP: Final = int(Kind.MAP)


class Sights:
    """Where pages may be, and which of them are surely shared since a fork."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.small = geometry.page_size == GRANULE * WORD
        """A slot is one page of the kernel, which is in one place and has one entry."""
        self.devices = [[0] * geometry.pages for _ in range(geometry.processes)]
        """By process and slot: bit mask of the devices in whose memory the page may be."""
        self.returned: set[Place] = set()
        """Pages that surely came back from a device."""
        self.kin = [[0] * geometry.pages for _ in range(geometry.processes)]
        """By process and slot: pages of the same number may be the same, since a fork or move."""
        self.kinds = 0
        self.shared: dict[Place, set[Place]] = {}
        """All places that surely map one page copy-on-write, of each of them."""
        self.merged = False
        """Any two pages may have become the same one."""

    # What operations do

    def note(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """Take over what the operation did, which was judged right and is in the state."""
        handler = _HANDLERS.get(operation.kind)
        if handler is not None and outcome.status != UNSUPPORTED:
            handler(self, state, operation, outcome)

    def _alone(self, place: Place) -> None:
        """The page may be the place's own from here on."""
        group = self.shared.pop(place, None)
        if group is not None:
            group.discard(place)

    def _back(self, place: Place) -> None:
        """The page is in no device's memory now."""
        process, page = place
        if self.devices[process][page]:
            self.devices[process][page] = 0
            self.returned.add(place)

    def cpu_access(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """It brings home what it reaches (G9); a write breaks copy-on-write."""
        process, done = operation.process, outcome.done // WORD
        words = self.geometry.page_size // WORD
        for page, _, count, before in pieces(operation, self.geometry.page_size):
            if before < done and (self.small or (count == words and before + count <= done)):
                self._back((process, page))
            if operation.kind != READ:
                self._alone((process, page))

    def device_access(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """It may break copy-on-write even for reading; queued ones do so from submit on."""
        if not operation.job:
            self._touched(state, operation)

    def submit(self, state: State, operation: Operation, outcome: Outcome) -> None:
        job = state.in_flight.get((operation.device, operation.job))
        for access in job.accesses if job is not None else ():
            self._touched(state, access)

    def _touched(self, state: State, access: Operation) -> None:
        process = state.attached[access.device]
        for page, *_ in pieces(access, self.geometry.page_size):
            self._alone((process, page))

    def faulted(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """A fault, exclusive access or a pin may break copy-on-write."""
        process = state.attached.get(operation.device)
        if process is not None:
            for page in pages_of(operation):
                self._alone((process, page))

    def replaced(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """Other memory is there now, or none."""
        process = operation.process
        for page in pages_of(operation):
            self._alone((process, page))
            if outcome.status == OK:
                self.devices[process][page] = 0
                self.returned.discard((process, page))
        if outcome.status == OK and operation.kind == _MAP:
            for page in pages_of(operation):
                self.kinds += 1
                self.kin[process][page] = self.kinds

    def remapped(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """Both ends may have what was at either."""
        process = operation.process
        devices = self.devices[process]
        for source, target in zip(pages_of(operation), target_of(operation), strict=True):
            for page in (source, target):
                self._alone((process, page))
                self.returned.discard((process, page))
            devices[source] = devices[target] = devices[source] | devices[target]
            self._unite(self.kin[process][source], self.kin[process][target])
            if outcome.status == OK and not operation.flags & _DONTUNMAP:
                devices[source] = 0

    def _unite(self, one: int, other: int) -> None:
        for kin in self.kin:
            kin[:] = [one if number == other else number for number in kin]

    def freed(self, state: State, operation: Operation, outcome: Outcome) -> None:
        for page in pages_of(operation):
            self._alone((operation.process, page))

    def unsettled(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """Which pages are shared is not known any more."""
        self.shared.clear()

    def merges(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """From here on pages are merged, and parted again, at any time."""
        self.shared.clear()
        self.merged = True

    def fork(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """The child has the parent's pages, wherever they are."""
        if outcome.status != OK:
            return
        process, child = operation.process, operation.target
        self.devices[child] = self.devices[process][:]
        self.kin[child] = self.kin[process][:]
        self.returned.update((child, page) for place, page in [*self.returned] if place == process)
        space = state.spaces[process]
        if space is None or not self.small or self.merged or state.in_flight or state.registrations:
            return
        for page, slot in enumerate(space.slots):
            if _populated(slot):
                group = self.shared.setdefault((process, page), {(process, page)})
                group.add((child, page))
                self.shared[child, page] = group

    def exit(self, state: State, operation: Operation, outcome: Outcome) -> None:
        for page in range(self.geometry.pages):
            self._alone((operation.process, page))

    def to_device(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """Best effort, and for whoever has the same pages: whatever it answers, they may be there.

        A page that is shared stays shared.
        """
        process, bit = state.attached.get(operation.device), 1 << operation.device
        if process is None:
            return
        moved = {self.kin[process][page] for page in pages_of(operation)}
        for kin, devices in zip(self.kin, self.devices, strict=True):
            for page, number in enumerate(kin):
                if self.merged or number in moved:
                    devices[page] |= bit

    def to_system(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """One of the pages at least came back: of a single one it is known which."""
        process = state.attached.get(operation.device)
        single = self.small and operation.pages == 1 and not state.in_flight
        if process is not None and outcome.status == OK and single:
            self._back((process, operation.page))

    # What a snapshot may show

    def check(self, state: State, operation: Operation, outcome: Outcome) -> None:
        """`Broken` unless the device may be shown this (H12, H13, H14)."""
        space = state.mirrored(operation.device)
        if space is None:
            if outcome.status == OK:
                raise Broken(Problem.CALL, "snapshot must fail: the process has exited")
            return
        if outcome.status == SKIPPED or (outcome.status != OK and state.excused):
            return
        if outcome.status != OK:
            raise Broken(Problem.CALL, "snapshot must succeed", page=operation.page)
        process = state.attached[operation.device]
        for page, byte in zip(pages_of(operation), outcome.data, strict=True):
            exercised = state.history.exercised
            if byte:
                _check_form(page, byte)
                self._check_rights(process, page, byte, space)
                self._check_place(process, page, byte, operation.device)
                if byte & _ZERO:
                    self._check_zero(page, byte, space)
                    exercised["H14"] += 1
                if byte & (_HERE | _ELSEWHERE) or (process, page) in self.returned:
                    exercised["H13"] += 1
            if byte or not reachable(space.slots[page], _READ):
                exercised["H12"] += 1

    def _check_rights(self, process: int, page: int, byte: int, space: AddressSpace) -> None:
        slot = space.slots[page]
        if not reachable(slot, _READ):
            raise _seen("H12", page, byte, "nothing there may be read")
        if not byte & _WRITE:
            return
        writable = permitting(slot, READ_WRITE)
        if not writable:
            raise _seen("H12", page, byte, "it may not be written")
        if all(mapping.through for mapping in writable):
            raise _seen("H12", page, byte, "what is there is the file's")
        others = self.shared.get((process, page), set()) - {(process, page)}
        if others:
            other, there = min(others)
            raise _seen("H12", page, byte, f"p{other} still has the same page, at {there}")

    def _check_place(self, process: int, page: int, byte: int, device: int) -> None:
        devices, here = self.devices[process][page], 1 << device
        absent = (byte & _HERE and not devices & here) or (
            byte & _ELSEWHERE and not devices & ~here
        )
        if absent:
            back = (process, page) in self.returned
            why = "it has come back" if back else "it was never migrated there"
            raise _seen("H13", page, byte, why)

    def _check_zero(self, page: int, byte: int, space: AddressSpace) -> None:
        if byte & _WRITE:
            raise _seen("H14", page, byte, "all processes have that page")
        zeros = bytes(self.geometry.page_size)
        contents = [mapping.page() for mapping in permitting(space.slots[page], _READ)]
        if not any(each is not None and each.fits(0, zeros) for each in contents):
            raise _seen("H14", page, byte, "it was written")


def _check_form(page: int, byte: int) -> None:
    places = byte & _PLACES
    if byte & ~_KNOWN or not byte & _READ or not places or (byte & _ZERO and places != _SYSTEM):
        raise Broken(Problem.ANSWER, f"page {page} is shown as {byte:#04x}", page=page)


def _seen(rule: str, page: int, byte: int, why: str) -> Broken:
    message = f"page {page} is shown as {seen_text(byte)}, but {why}"
    return Broken(Problem.SEEN, message, page=page, rule=rule)


def _populated(slot: Slot) -> bool:
    """Whether there surely is a private page, and not a hole or a page of zeros."""
    own = slot[0].own if len(slot) == 1 and slot[0] is not None else None
    return own is not None and not own.lazy and _written(own)


def _written(page: Page) -> bool:
    return any(not holds(page.values(word), 0) for word in page.written())


_Handler = Callable[[Sights, State, Operation, Outcome], None]
_HANDLERS: Final[Mapping[int, _Handler]] = {
    **dict.fromkeys(map(int, CPU_ACCESSES), Sights.cpu_access),
    **dict.fromkeys(map(int, DEVICE_ACCESSES), Sights.device_access),
    **dict.fromkeys(map(int, (Kind.FAULT, Kind.EXCLUSIVE, Kind.REGISTER)), Sights.faulted),
    **dict.fromkeys(map(int, (Kind.MAP, Kind.UNMAP, Kind.DISCARD)), Sights.replaced),
    **dict.fromkeys(map(int, (Kind.PUNCH, Kind.TRUNCATE, Kind.COLLAPSE)), Sights.unsettled),
    int(Kind.REMAP): Sights.remapped,
    int(Kind.FREE): Sights.freed,
    int(Kind.MERGE): Sights.merges,
    int(Kind.FORK): Sights.fork,
    int(Kind.EXIT): Sights.exit,
    int(Kind.SUBMIT): Sights.submit,
    int(Kind.TO_DEVICE): Sights.to_device,
    int(Kind.TO_SYSTEM): Sights.to_system,
}
