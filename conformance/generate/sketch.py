"""The state of a program under construction, as far as choosing the next operation needs it.

The sketch assumes that every operation succeeds and happens in order.  It only aims: where it is
wrong, the program is a little less interesting but just as valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from reference.operations import ACCESSES, DEVICE_ACCESSES, WORD, Flag, Kind, Operation
from reference.validity import Liveness

from .plan import Plan

__all__ = ["Aim", "Area", "Registration", "Side", "Sketch"]

_WRITES: Final = frozenset(map(int, ACCESSES - {Kind.READ, Kind.DREAD}))
_BEYOND_U64: Final = 1 << 64
# Plain numbers: arithmetic with enumerations is slow.
_RIGHTS: Final = int(Flag.READ | Flag.WRITE)
_FILE: Final = int(Flag.FILE)
_SHARED: Final = int(Flag.SHARED)
_DONTUNMAP: Final = int(Flag.DONTUNMAP)
_UNMAP: Final = int(Kind.UNMAP)
_ADDS: Final = frozenset(map(int, (Kind.ADD, Kind.DADD)))
_HOT: Final = 6
"""Recently used pages that are remembered."""
_PATIENCE: Final = 4
"""Operations for which an aim lasts."""


class Side:
    """Who should make the next access.  Bits of the context that `choose.table` is made for."""

    CPU: Final = 1
    DEVICE: Final = 2
    KEYLESS: Final = 3
    """The CPU, or a device through a key that is still to be registered."""


class Area(NamedTuple):
    """What is mapped in one slot.  Neighbouring slots with equal areas are one mapping."""

    flags: int
    mapping: int
    """Which operation mapped it, or made it one huge page."""
    file: int = 0
    shift: int = 0
    """Page of the file minus slot."""


class Registration(NamedTuple):
    """A live key's range and rights."""

    page: int
    pages: int
    flags: int


class Aim:
    """Pages at which something just happened, and the side that should look at them next."""

    __slots__ = ("page", "pages", "process", "side", "strong", "until")

    def __init__(
        self, side: int, process: int, page: int, pages: int, strong: bool, until: int
    ) -> None:
        self.side = side
        self.process = process
        self.page = page
        self.pages = pages
        self.strong = strong
        """After an event, rather than after a mere write."""
        self.until = until
        """The index of the last operation for which it counts."""


class Sketch:
    """Abstract state after some operations of a program; see the module.

    Pages are slots of the arena, `areas` and `stamps` are by process, then by slot.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.index = 0
        """Operations so far, hence also the index of the next one."""
        self.live = Liveness(plan.geometry)
        self.processes = [0]
        """Live processes, ascending."""
        self.areas: dict[int, dict[int, Area]] = {0: {}}
        self.stamps: dict[int, dict[int, tuple[int, int, int]]] = {0: {}}
        """Last write: first byte and end byte in the arena, value of its first word."""
        self.lazy: dict[int, set[int]] = {0: set()}
        self.sizes = [plan.geometry.pages] * plan.geometry.files
        """Pages of each file."""
        self.keys: dict[tuple[int, int], Registration] = {}
        self.job_pages: dict[tuple[int, int], tuple[int, int]] = {}
        """Process and page of the last access in each job."""
        self.hot: list[int] = []
        self.aims: list[Aim] = []
        self._runs: dict[int, list[tuple[int, int]]] = {}

    def add(self, operation: Operation) -> None:
        """Take the next operation, which must be valid here."""
        _HANDLERS[operation.kind](self, operation)
        self.index += 1

    def aim(self) -> Aim | None:
        """The latest aim that still counts."""
        aims = self.aims
        while aims and aims[-1].until < self.index:
            aims.pop()
        return aims[-1] if aims else None

    def runs(self, process: int) -> list[tuple[int, int]]:
        """The mappings of a process as slot ranges `(first, end)`, ascending."""
        runs = self._runs.get(process)
        if runs is None:
            runs = self._runs[process] = _runs_of(self.areas.get(process, {}))
        return runs

    def expected(self, process: int, page: int, offset: int) -> int:
        """The value last written to a word as far as known, else 0."""
        start, end, value = self.stamps.get(process, {}).get(page, (0, 0, 0))
        byte = page * self.plan.geometry.page_size + offset
        return value + (byte - start) // WORD if start <= byte < end else 0

    def allows(self, process: int, page: int, rights: int) -> bool:
        """Whether the process may access a page in this way, as far as known."""
        area = self.areas[process].get(page)
        if area is None or area.flags & rights != rights:
            return False
        return not area.flags & _FILE or page + area.shift < self.sizes[area.file]

    def busy(self, device: int) -> bool:
        """Whether the device has a job that was not waited for."""
        live = self.live
        return any(job[0] == device for jobs in (live.queued, live.in_flight) for job in jobs)

    def touch(self, page: int) -> None:
        """Remember a page as the most recently used."""
        hot = self.hot
        if page in hot:
            hot.remove(page)
        hot.insert(0, page)
        del hot[_HOT:]

    def _change(self, process: int, pages: Iterable[int]) -> None:
        """The contents of these pages are no longer known."""
        stamps = self.stamps[process]
        for page in pages:
            stamps.pop(page, None)

    def _step(self, operation: Operation) -> None:
        problem = self.live.step(operation)
        if problem is not None:
            raise ValueError(f"operation {self.index}: {problem}")

    def _look(self, side: int, process: int, page: int, pages: int, *, strong: bool = True) -> None:
        """Prefer an access of that side to these pages, or of the CPU where no device can."""
        if side == Side.DEVICE and not self.mirrored(process, page, pages):
            side = Side.KEYLESS if self._has_free_key(process) else Side.CPU
        self.aims.append(Aim(side, process, page, pages, strong, self.index + _PATIENCE))
        del self.aims[:-2]

    def mirrored(self, process: int, page: int, pages: int) -> bool:
        """Whether a device reaches any of these pages, as far as known."""
        if process not in self.live.attached.values():
            return False
        if not self.plan.description.keyed:
            return True
        attached = self.live.attached
        return any(
            key.page < page + pages and page < key.page + key.pages
            for (device, _), key in self.keys.items()
            if attached[device] == process
        )

    def _has_free_key(self, process: int) -> bool:
        """Whether a device of the process can register more, as far as known."""
        attached = self.live.attached
        devices = [device for device in attached if attached[device] == process]
        taken = sum(device in devices for device, _ in self.keys)
        return self.plan.description.keyed and taken < len(devices) * self.plan.geometry.keys

    def _hot_mapped(self, process: int) -> int | None:
        area = self.areas[process]
        return next((page for page in self.hot if page in area), None)

    # One handler for each kind.

    def _map(self, operation: Operation) -> None:
        process, page, pages = operation.process, operation.page, operation.pages
        shift = operation.target - page if operation.flags & _FILE else 0
        new = Area(operation.flags, self.index, operation.file, shift)
        self.areas[process].update(dict.fromkeys(range(page, page + pages), new))
        self._remapped(operation)

    def _unmap(self, operation: Operation) -> None:
        area = self.areas[operation.process]
        for page in range(operation.page, operation.page + operation.pages):
            area.pop(page, None)
        self._remapped(operation)

    def _remapped(self, operation: Operation) -> None:
        pages = range(operation.page, operation.page + operation.pages)
        self._runs.pop(operation.process, None)
        self._change(operation.process, pages)
        self.lazy[operation.process].difference_update(pages)
        self._event(operation)

    def _remap(self, operation: Operation) -> None:
        _, process, _, flags, page, pages, _, _, target, *_ = operation
        if abs(page - target) < pages:
            self._event(operation)
            return
        area = self.areas[process]
        source = [area[slot] for slot in range(page, page + pages) if slot in area]
        if len(source) == pages:
            for slot, old in enumerate(source):
                area[target + slot] = old._replace(shift=old.shift + page - target)
                if not flags & _DONTUNMAP:
                    del area[page + slot]
        self._runs.pop(process, None)
        self._move_stamps(operation)
        self._event(operation)
        self._look(Side.DEVICE, process, target, pages)
        self.touch(target)

    def _move_stamps(self, operation: Operation) -> None:
        stamps = self.stamps[operation.process]
        distance = (operation.target - operation.page) * self.plan.geometry.page_size
        for slot in range(operation.pages):
            stamp = stamps.pop(operation.page + slot, None)
            stamps.pop(operation.target + slot, None)
            if stamp:
                start, end, value = stamp
                stamps[operation.target + slot] = (start + distance, end + distance, value)

    def _protect(self, operation: Operation) -> None:
        area = self.areas[operation.process]
        for page in range(operation.page, operation.page + operation.pages):
            if page in area:
                old = area[page]
                area[page] = old._replace(flags=old.flags & ~_RIGHTS | operation.flags)
        self._runs.pop(operation.process, None)
        self._event(operation)

    def _discard(self, operation: Operation) -> None:
        area = self.areas[operation.process]
        pages = range(operation.page, operation.page + operation.pages)
        gone = [page for page in pages if page in area and not area[page].flags & _SHARED]
        self._change(operation.process, gone)
        self._event(operation)

    def _punch(self, operation: Operation) -> None:
        self._change(operation.process, range(operation.page, operation.page + operation.pages))
        self._event(operation)

    def _free(self, operation: Operation) -> None:
        pages = range(operation.page, operation.page + operation.pages)
        self.lazy[operation.process].update(pages)
        self._event(operation)

    def _truncate(self, operation: Operation) -> None:
        self.sizes[operation.file] = operation.pages
        for process in self.processes:
            for page, area in self.areas[process].items():
                if area.flags & _FILE and area.file == operation.file:
                    if page + area.shift >= operation.pages:
                        self.stamps[process].pop(page, None)
        area_of = self.areas[operation.process].items()
        mapped = [p for p, a in area_of if a.flags & _FILE and a.file == operation.file]
        if mapped:
            self._look(Side.DEVICE, operation.process, max(mapped), 1)

    def _fork(self, operation: Operation) -> None:
        self._step(operation)
        parent, child = operation.process, operation.target
        self.processes = sorted(self.live.alive)
        self.areas[child] = self.areas[parent].copy()
        self.stamps[child] = self.stamps[parent].copy()
        self.lazy[child] = self.lazy[parent].copy()
        page = self._hot_mapped(parent)
        if page is not None:
            self._look(Side.CPU, child, page, 1)
            self._look(Side.DEVICE, parent, page, 1)

    def _exit(self, operation: Operation) -> None:
        self._step(operation)
        self.processes = sorted(self.live.alive)
        process = operation.process
        self.areas[process], self.stamps[process], self.lazy[process] = {}, {}, set()
        self._runs.pop(process, None)
        self.aims = [aim for aim in self.aims if aim.process != process]

    def _event(self, operation: Operation) -> None:
        page, pages = operation.page, operation.pages
        self.touch(page)
        area = self.areas[operation.process]
        # An access to what was not mapped before either says little.
        if operation.kind == _UNMAP or page in area or page + pages - 1 in area:
            self._look(Side.DEVICE, operation.process, page, pages)

    def _collapse(self, operation: Operation) -> None:
        """A huge page has edges of its own, at which the next operations may go wrong."""
        area = self.areas[operation.process]
        pages = range(operation.page, operation.page + operation.pages)
        old = area.get(operation.page)
        if old is not None and all(area.get(page) == old for page in pages):
            area.update(dict.fromkeys(pages, old._replace(mapping=self.index)))
            self._runs.pop(operation.process, None)
        self._event(operation)

    def _device_event(self, operation: Operation) -> None:
        self.touch(operation.page)
        process = self.live.attached[operation.device]
        self._look_at_live(Side.CPU, process, operation.page, operation.pages)

    def _snapshot(self, operation: Operation) -> None:
        """It changes nothing, and calls for nothing."""

    def _look_at_live(self, side: int, process: int, page: int, pages: int) -> None:
        if process in self.live.alive:
            self._look(side, process, page, pages)

    def _access(self, operation: Operation) -> None:
        self._accessed(operation, operation.process, Side.CPU)

    def _device_access(self, operation: Operation) -> None:
        process = self.live.attached[operation.device]
        if operation.job:
            self._step(operation)
            self.job_pages[operation.device, operation.job] = process, operation.page
            self.touch(operation.page)
        else:
            self._accessed(operation, process, Side.DEVICE)

    def _accessed(self, operation: Operation, process: int, side: int) -> None:
        page = operation.page
        size = self.plan.geometry.page_size
        last = page + (operation.offset + operation.length - 1) // size
        self._seen(side, page, last)
        self.touch(page)
        if operation.kind in _WRITES and self.allows(process, page, _RIGHTS):
            self._written(operation, process, last)
            other = Side.CPU if side == Side.DEVICE else Side.DEVICE
            self._look(other, process, page, last - page + 1, strong=False)

    def _seen(self, side: int, page: int, last: int) -> None:
        """An access of this side: the aims that asked for it have been met."""
        if self.aims:
            self.aims = [
                aim
                for aim in self.aims
                if not aim.side & side or aim.page > last or page >= aim.page + aim.pages
            ]

    def _written(self, operation: Operation, process: int, last: int) -> None:
        start = operation.page * self.plan.geometry.page_size + operation.offset
        value = operation.value
        if operation.kind in _ADDS:
            value += self.expected(process, operation.page, operation.offset)
        stamp = (start, start + operation.length, value % _BEYOND_U64)
        for slot in range(operation.page, last + 1):
            self.lazy[process].discard(slot)
            self.stamps[process][slot] = stamp
            if len(self.processes) > 1:
                self._share(process, slot, stamp)

    def _share(self, writer: int, slot: int, stamp: tuple[int, int, int]) -> None:
        area = self.areas[writer].get(slot)
        if area is not None and area.flags & _SHARED:
            for process in self.processes:
                if self.areas[process].get(slot) == area:
                    self.stamps[process][slot] = stamp

    def _attach(self, operation: Operation) -> None:
        self._step(operation)
        page = self._hot_mapped(operation.process)
        if page is not None:
            self._look(Side.DEVICE, operation.process, page, 1)

    def _detach(self, operation: Operation) -> None:
        self._step(operation)
        device = operation.device
        self.keys = {key: range_ for key, range_ in self.keys.items() if key[0] != device}

    def _register(self, operation: Operation) -> None:
        self.touch(operation.page)
        process = self.live.attached[operation.device]
        area = self.areas[process]
        key = (operation.device, operation.key)
        pages = range(operation.page, operation.page + operation.pages)
        if key in self.keys or not all(
            slot in area and area[slot].flags & operation.flags == operation.flags for slot in pages
        ):
            return
        self.keys[key] = Registration(operation.page, operation.pages, operation.flags)
        self._look_at_live(Side.DEVICE, process, operation.page, operation.pages)

    def _unregister(self, operation: Operation) -> None:
        self.keys.pop((operation.device, operation.key), None)

    def _submit(self, operation: Operation) -> None:
        self._step(operation)
        # The page is hot now, so that what comes before the wait is likely to hit it.
        self.touch(self.job_pages[operation.device, operation.job][1])

    def _wait(self, operation: Operation) -> None:
        self._step(operation)
        process, page = self.job_pages.pop((operation.device, operation.job))
        self._look_at_live(Side.CPU, process, page, 1)


def _runs_of(area: dict[int, Area]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    first, previous = -1, -2
    for page in sorted(area):
        if page != previous + 1 or area[page] != area[previous]:
            if first >= 0:
                runs.append((first, previous + 1))
            first = page
        previous = page
    if first >= 0:
        runs.append((first, previous + 1))
    return runs


_HANDLERS: Final[Mapping[int, Callable[[Sketch, Operation], None]]] = {
    **dict.fromkeys(
        (Kind.RECLAIM, Kind.MIGRATE, Kind.SPLIT, Kind.MERGE, Kind.INVALIDATE),
        Sketch._event,
    ),
    Kind.COLLAPSE: Sketch._collapse,
    **dict.fromkeys(
        (Kind.FAULT, Kind.TO_DEVICE, Kind.TO_SYSTEM, Kind.EXCLUSIVE), Sketch._device_event
    ),
    **dict.fromkeys(ACCESSES - DEVICE_ACCESSES, Sketch._access),
    **dict.fromkeys(DEVICE_ACCESSES, Sketch._device_access),
    Kind.MAP: Sketch._map,
    Kind.UNMAP: Sketch._unmap,
    Kind.REMAP: Sketch._remap,
    Kind.PROTECT: Sketch._protect,
    Kind.DISCARD: Sketch._discard,
    Kind.PUNCH: Sketch._punch,
    Kind.FREE: Sketch._free,
    Kind.TRUNCATE: Sketch._truncate,
    Kind.FORK: Sketch._fork,
    Kind.EXIT: Sketch._exit,
    Kind.ATTACH: Sketch._attach,
    Kind.DETACH: Sketch._detach,
    Kind.REGISTER: Sketch._register,
    Kind.UNREGISTER: Sketch._unregister,
    Kind.SUBMIT: Sketch._submit,
    Kind.WAIT: Sketch._wait,
    Kind.SNAPSHOT: Sketch._snapshot,
}
