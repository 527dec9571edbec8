"""Builds an operation of a given kind in the context of a sketch.

Each builder takes eight bytes; `spans` says which byte decides what.  Every result is valid
where the sketch stands, provided that the kind is possible there (`choose.possible`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from reference.operations import (
    ATOMICS,
    CPU_ACCESSES,
    DEVICE_ACCESSES,
    WORD,
    Event,
    Flag,
    Kind,
    Operation,
)

from .made import made
from .sketch import Aim, Registration, Side, Sketch
from .spans import (
    HOW,
    LENGTH,
    OFFSET,
    OTHER,
    PAGE,
    WHERE,
    WHO,
    Span,
    area_range,
    inner_range,
    pick,
    runs_range,
    shape,
    slot_in,
    widened,
)

__all__ = ["build"]

_JOB_LENGTH: Final = 64
"""Bytes of an access in a job, at most."""

_SORT: Final = int(Flag.SHARED | Flag.FILE)
_READ: Final = int(Flag.READ)
_READ_WRITE: Final = int(Flag.READ | Flag.WRITE)
_SHARED: Final = int(Flag.SHARED)
_FILE: Final = int(Flag.FILE)
_READS: Final = frozenset(map(int, (Kind.READ, Kind.DREAD)))
_ADDS: Final = frozenset(map(int, (Kind.ADD, Kind.DADD)))
_DWRITE: Final = int(Kind.DWRITE)
_U64: Final = (1 << 64) - 1
_ADDEND_SHIFT: Final = 44
_STAMP_SHIFT: Final = 20
_EVENTS: Final = tuple(map(int, Event))
_JOB_SIZE: Final = 3
"""Accesses in a generated job."""
_DEAD_KEY: Final = 248
_OUTSIDE: Final = 228
"""From here on, the byte `WHERE` asks for a key that does not live, or for bytes outside its
range: what must fail is rare, or it would be most of what happens."""


def build(sketch: Sketch, kind: Kind, packed: int) -> Operation:
    """The operation that the low 64 bits of `packed` stand for; smaller bytes are simpler."""
    return _BUILDERS[kind](sketch, kind, (packed & _U64).to_bytes(8, "little"))


def _process(sketch: Sketch, choice: bytes) -> int:
    """Half of the time the process that the lowest device mirrors, else any."""
    attached = sketch.live.attached
    if choice[WHO] < 128 and attached:
        process = attached[min(attached)]
        if process in sketch.live.alive:
            return process
    return pick(sketch.processes, choice[WHO])


def _device(sketch: Sketch, choice: bytes) -> int:
    attached = sketch.live.attached
    return min(attached) if len(attached) == 1 else pick(sorted(attached), choice[WHO])


def _idle(sketch: Sketch, choice: bytes) -> int:
    """An attached device without jobs."""
    attached = sketch.live.attached
    return pick([device for device in sorted(attached) if not sketch.busy(device)], choice[WHO])


def _area(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    process = _process(sketch, choice)
    page, pages = area_range(sketch, process, choice)
    return made(kind, process, 0, 0, page, pages)


def _map(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    process = _process(sketch, choice)
    page, pages = area_range(sketch, process, choice)
    other, rights, profile = choice[OTHER], choice[LENGTH], sketch.plan.profile
    flags = _READ_WRITE
    if rights >= 216:
        flags = _READ if rights < 248 else 0
    if choice[OFFSET] >= 256 - profile.shared:
        flags |= _SHARED
    if choice[HOW] < 256 - profile.files:
        return made(kind, process, 0, flags, page, pages)
    arena = sketch.plan.geometry.pages
    origin = (page, 0, other * arena >> 8)[other % 3]
    file = other * other * sketch.plan.geometry.files >> 16
    origin = min(origin, arena - pages)
    return made(kind, process, 0, flags | _FILE, page, pages, target=origin, file=file)


def _protect(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    """Mostly the rights that the first page does not have, so that most memory stays writable."""
    process = _process(sketch, choice)
    page, pages = area_range(sketch, process, choice)
    area = sketch.areas[process].get(page)
    writable = area is not None and area.flags & _READ_WRITE == _READ_WRITE
    rights = (_READ, _READ, 0, _READ_WRITE) if writable else (_READ_WRITE, _READ_WRITE, _READ, 0)
    return made(kind, process, 0, rights[choice[HOW] >> 6], page, pages)


def _remap(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    process = _process(sketch, choice)
    runs = sketch.runs(process)
    if runs and choice[WHERE] < 224:
        page, pages = inner_range(runs, choice)
    else:
        page, pages = area_range(sketch, process, choice)
    arena = sketch.plan.geometry.pages
    other, how = choice[OTHER], choice[HOW]
    if other < 64 and sketch.hot:
        target = min(pick(sketch.hot, 4 * other), arena - pages)
    else:
        target = other * other * (arena - pages + 1) >> 16
    if abs(target - page) < pages and how & 15:
        target = _beside(page, pages, arena, target)
    flags = int(Flag.DONTUNMAP) if how >= 200 else 0
    return made(kind, process, 0, flags, page, pages, target=target)


def _beside(page: int, pages: int, arena: int, otherwise: int) -> int:
    """A destination that does not overlap, if there is room for one."""
    if page + 2 * pages <= arena:
        return page + pages
    return page - pages if page >= pages else otherwise


def _of_sort(mask: int, wanted: int) -> Callable[[Sketch, Kind, bytes], Operation]:
    """A builder for operations that work on one sort of mapping only, and mostly get it."""

    def build_one(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
        process = _process(sketch, choice)
        area = sketch.areas[process]
        runs = [run for run in sketch.runs(process) if area[run[0]].flags & mask == wanted]
        if runs and choice[WHERE] < 208:
            page, pages = runs_range(runs, sketch.plan.geometry.pages, choice)
        else:
            page, pages = area_range(sketch, process, choice)
        return made(kind, process, 0, 0, page, pages)

    return build_one


def _reclaim(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    """Often of lazily freed pages, which only reclaim makes go away."""
    operation = _area(sketch, kind, choice)
    lazy = sketch.lazy[operation.process]
    if lazy and choice[HOW] >= 128:
        return operation._replace(page=pick(sorted(lazy), choice[OTHER]), pages=1)
    return operation


def _collapse(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    """Mostly all of a mapping of several pages: a huge page is made of what lies together.

    Preferably of pages that no key covers, since pinned ones stay as they are.
    """
    process = _process(sketch, choice)
    area = sketch.areas[process]
    anonymous = [run for run in sketch.runs(process) if not area[run[0]].flags & _SORT]
    several = [(first, end) for first, end in anonymous if end - first > 1] or anonymous
    if sketch.plan.description.keyed:
        loose = [run for run in several if not sketch.mirrored(process, run[0], run[1] - run[0])]
        several = loose or several
    if several and choice[WHERE] < 224:
        page, pages = inner_range(several, choice, least=2)
    else:
        page, pages = area_range(sketch, process, choice)
    return made(kind, process, 0, 0, page, pages)


def _truncate(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    """Cut a file inside what is mapped of it, or back to its full length."""
    process = _process(sketch, choice)
    arena = sketch.plan.geometry.pages
    mapped = [
        (area.file, page + area.shift)
        for page, area in sketch.areas[process].items()
        if area.flags & _FILE
    ]
    if not mapped or choice[WHERE] >= 224:
        file = choice[OTHER] * len(sketch.sizes) >> 8
        return made(kind, process, 0, 0, 0, choice[HOW] * (arena + 1) >> 8, file=file)
    file, page = pick(mapped, choice[OTHER])
    pages = arena if sketch.sizes[file] < arena and choice[HOW] < 160 else page + choice[HOW] % 2
    return made(kind, process, 0, 0, 0, pages, file=file)


def _fork(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    child = min(set(range(sketch.plan.geometry.processes)) - sketch.live.born)
    return made(kind, _process(sketch, choice), 0, 0, 0, 0, target=child)


def _exit(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    """A child rather than the parent, whose end leaves little to see."""
    return made(kind, pick(sketch.processes[::-1], choice[WHO]), 0, 0, 0, 0)


def _access(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    aim = sketch.aim()
    if aim is not None and aim.side & Side.CPU and choice[WHO] < 208:
        process = aim.process
    else:
        process, aim = _process(sketch, choice), None
    page = slot_in(sketch, process, choice, aim, _needed(kind))
    offset, length = shape(sketch.plan.geometry, page, _end(sketch, process, page, choice), choice)
    value, expected = _values(sketch, kind, choice, (process, page, offset))
    return made(kind, process, 0, 0, page, 0, offset, length, value=value, expected=expected)


def _needed(kind: Kind) -> int:
    return _READ if kind in _READS else _READ_WRITE


def _end(sketch: Sketch, process: int, page: int, choice: bytes) -> int:
    """Before which page the access must end: few run from mapped memory into a hole."""
    area = sketch.areas[process]
    if page in area and page + 1 not in area and choice[WHERE] & 3:
        return page + 1
    return sketch.plan.geometry.pages


def _values(sketch: Sketch, kind: Kind, choice: bytes, word: tuple[int, int, int]) -> Span:
    """Value and expected value for an access that begins at a word (process, page, offset).

    Each write stamps a value of its own, by its index in the program.
    """
    if kind in _READS:
        return 0, 0
    number = sketch.index + 1
    if kind not in ATOMICS:
        return number << _STAMP_SHIFT & _U64, 0
    if kind in _ADDS:
        return number << _ADDEND_SHIFT & _U64, 0
    aimed = sketch.expected(*word)
    return number << _STAMP_SHIFT & _U64, aimed if choice[HOW] < 208 else aimed ^ WORD


def _device_access(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    if sketch.plan.description.keyed:
        return _keyed_access(sketch, kind, choice)
    aim = sketch.aim()
    device = _aimed_device(sketch, choice, aim)
    process = sketch.live.attached[device]
    if aim is not None and (aim.side != Side.DEVICE or aim.process != process):
        aim = None
    page = slot_in(sketch, process, choice, aim, _needed(kind))
    end = _end(sketch, process, page, choice)
    return _device_operation(sketch, kind, choice, (device, 0), (page, end))


def _aimed_device(sketch: Sketch, choice: bytes, aim: Aim | None) -> int:
    if aim is not None and aim.side & Side.DEVICE:
        attached = sketch.live.attached
        devices = [device for device in sorted(attached) if attached[device] == aim.process]
        if devices:
            return pick(devices, choice[WHO])
    return _device(sketch, choice)


def _keyed_access(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    """Mostly inside the range of a live key that gives the right."""
    keys, where = sketch.keys, choice[WHERE]
    if not keys or where >= _DEAD_KEY:
        device = _device(sketch, choice)
        process = sketch.live.attached[device]
        page = slot_in(sketch, process, choice, None, _needed(kind))
        key = 1 + (choice[HOW] * sketch.plan.geometry.keys >> 8)
        return _device_operation(sketch, kind, choice, (device, key), (page, page + 1))
    aim = sketch.aim()
    (device, key), registration = pick(_useful(sketch, kind, aim), choice[WHO])
    first, end = registration.page, registration.page + registration.pages
    if where >= _OUTSIDE:
        arena = sketch.plan.geometry.pages
        beside = [near for near in (first - 1, end) if 0 <= near < arena]
        page = pick([*beside, end - 1], choice[PAGE])
        end = arena
    elif aim is not None and aim.side == Side.DEVICE and aim.page < end > first:
        low, high = max(first, aim.page), min(end, aim.page + aim.pages)
        page = low + (choice[PAGE] * (high - low) >> 8) if low < high else first
    else:
        page = first + (choice[PAGE] * registration.pages >> 8)
    return _device_operation(sketch, kind, choice, (device, key), (page, end))


_LiveKey = tuple[tuple[int, int], Registration]


def _useful(sketch: Sketch, kind: Kind, aim: Aim | None) -> list[_LiveKey]:
    """The live keys that work for this kind and cover the aim, as far as there are any."""
    items = list(sketch.keys.items())
    items = [item for item in items if _works(sketch, kind, *item)] or items
    if aim is None or aim.side != Side.DEVICE:
        return items
    end = aim.page + aim.pages
    return [item for item in items if item[1].page < end and aim.page < sum(item[1][:2])] or items


def _works(sketch: Sketch, kind: Kind, key: tuple[int, int], registration: Registration) -> bool:
    """Whether a key gives the right and its first page is still there."""
    rights = _needed(kind)
    process = sketch.live.attached[key[0]]
    allowed = registration.flags & rights == rights
    return allowed and sketch.allows(process, registration.page, registration.flags)


def _device_operation(
    sketch: Sketch, kind: Kind, choice: bytes, via: tuple[int, int], pages: Span
) -> Operation:
    """An access through `(device, key)`; `pages` is where it begins and what it ends before."""
    (device, key), (page, end) = via, pages
    offset, length = shape(sketch.plan.geometry, page, end, choice)
    process = sketch.live.attached[device]
    value, expected = _values(sketch, kind, choice, (process, page, offset))
    job = _job(sketch, device, choice[HOW])
    if kind == _DWRITE and sketch.plan.description.write_unit > WORD:
        if choice[OTHER] >= sketch.plan.profile.queued:
            job = 0  # so many words that race take long to judge
        offset, length = _in_units(sketch, job, choice, (page, offset, length))
    elif job:
        # A race is judged word by word, and a few words race as well as a page of them.
        length = min(length, _JOB_LENGTH)
    return made(
        kind,
        0,
        device,
        0,
        page,
        0,
        offset,
        length,
        key=key,
        job=job,
        value=value,
        expected=expected,
    )


def _in_units(sketch: Sketch, job: int, choice: bytes, span: tuple[int, int, int]) -> Span:
    """Offset and length of a write of whole units: those that `(page, offset, length)` lies in, as
    far as the arena goes, one for a job and else at most two.

    Where it need not be so, half of the writes stay as they are: then the device reads first.
    """
    page, offset, length = span
    if not (job or sketch.live.in_flight or choice[LENGTH] & 1):
        return offset, length
    unit, geometry = sketch.plan.description.write_unit, sketch.plan.geometry
    first = offset // unit * unit
    units = min(-(-(offset + length - first) // unit), 1 if job else 2)
    room = (geometry.pages - page) * geometry.page_size - first
    return first, min(units * unit, room)


def _job(sketch: Sketch, device: int, byte: int) -> int:
    """The job to queue an access in, or 0: a queued one with room, or now and then a new one."""
    queued = sketch.plan.profile.queued
    if not queued:
        return 0
    live = sketch.live
    jobs = range(1, sketch.plan.geometry.jobs + 1)
    for job in jobs:
        if 0 < live.queued.get((device, job), 0) < _JOB_SIZE and byte >= 112:
            return job
    if byte < 256 - queued:
        return 0
    taken = (*live.queued, *live.in_flight)
    return next((job for job in jobs if (device, job) not in taken), 0)


def _mirrored_area(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    device = _device(sketch, choice)
    span = area_range(sketch, sketch.live.attached[device], choice)
    page, pages = widened(*span, sketch.plan.geometry.pages, choice[OTHER])
    rights = 0
    if kind == Kind.FAULT:
        rights = _READ if choice[HOW] < 96 else _READ_WRITE
    return made(kind, 0, device, rights, page, pages)


def _register(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    """Mostly a free key for a range that is mapped with the rights asked for."""
    device = _aimed_device(sketch, choice, sketch.aim())
    process = sketch.live.attached[device]
    runs, area = sketch.runs(process), sketch.areas[process]
    readable = [run for run in runs if area[run[0]].flags & _READ]
    if readable and choice[WHERE] < 232:
        page, pages = inner_range(_aimed(sketch, process, readable) or readable, choice)
    else:
        page, pages = area_range(sketch, process, choice)
    mapped = area.get(page)
    writable = mapped is None or mapped.flags & _READ_WRITE == _READ_WRITE
    rights = _READ_WRITE if writable == (choice[HOW] < 208) else _READ
    keys = range(1, sketch.plan.geometry.keys + 1)
    free = [key for key in keys if (device, key) not in sketch.keys]
    key = pick(free if free and choice[OTHER] < 240 else keys, choice[OTHER])
    return made(kind, 0, device, rights, page, pages, key=key)


def _aimed(sketch: Sketch, process: int, runs: list[Span]) -> list[Span]:
    """The mappings in which something just happened that no key covers."""
    aim = sketch.aim()
    if aim is None or aim.side != Side.KEYLESS or aim.process != process:
        return []
    return [run for run in runs if run[0] < aim.page + aim.pages and aim.page < run[1]]


def _unregister(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    keys = [item for item in sketch.keys if not sketch.busy(item[0])]
    if keys and choice[HOW] < 240:
        device, key = pick(keys, choice[OTHER])
    else:
        device = _idle(sketch, choice)
        key = 1 + (choice[OTHER] * sketch.plan.geometry.keys >> 8)
    return made(kind, 0, device, 0, 0, 0, key=key)


def _attach(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    attached = sketch.live.attached
    device = min(set(range(sketch.plan.geometry.devices)) - attached.keys())
    process = sketch.processes[0] if choice[WHO] < 128 else pick(sketch.processes, choice[OTHER])
    return made(kind, process, device, 0, 0, 0)


def _detach(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    return made(kind, 0, _idle(sketch, choice), 0, 0, 0)


def _submit(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    device, job = pick(list(sketch.live.queued), choice[WHO])
    return made(kind, 0, device, 0, 0, 0, job=job)


def _wait(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    device, job = pick(list(sketch.live.in_flight), choice[WHO])
    return made(kind, 0, device, 0, 0, 0, job=job)


def _invalidate(sketch: Sketch, kind: Kind, choice: bytes) -> Operation:
    process = _process(sketch, choice)
    page, pages = area_range(sketch, process, choice)
    flags = int(Flag.NONBLOCK) if choice[HOW] >= 192 else 0
    # Only drivers are told of events that no kernel sends: a closed mirror is the kernel's too.
    events = _EVENTS if sketch.plan.description.schedules else _EVENTS[:-1]
    event = pick(events, choice[OTHER])
    return made(kind, process, 0, flags, page, pages, event=event)


_BUILDERS: Final[Mapping[Kind, Callable[[Sketch, Kind, bytes], Operation]]] = {
    **dict.fromkeys((Kind.UNMAP, Kind.DISCARD, Kind.MIGRATE, Kind.SPLIT, Kind.MERGE), _area),
    **dict.fromkeys(CPU_ACCESSES, _access),
    **dict.fromkeys(DEVICE_ACCESSES, _device_access),
    **dict.fromkeys((Kind.FAULT, Kind.TO_DEVICE, Kind.TO_SYSTEM, Kind.EXCLUSIVE), _mirrored_area),
    Kind.SNAPSHOT: _mirrored_area,
    Kind.MAP: _map,
    Kind.REMAP: _remap,
    Kind.PROTECT: _protect,
    Kind.PUNCH: _of_sort(_SHARED, _SHARED),
    Kind.COLLAPSE: _collapse,
    Kind.FREE: _of_sort(_SHARED | _FILE, 0),
    Kind.TRUNCATE: _truncate,
    Kind.FORK: _fork,
    Kind.EXIT: _exit,
    Kind.RECLAIM: _reclaim,
    Kind.ATTACH: _attach,
    Kind.DETACH: _detach,
    Kind.REGISTER: _register,
    Kind.UNREGISTER: _unregister,
    Kind.SUBMIT: _submit,
    Kind.WAIT: _wait,
    Kind.INVALIDATE: _invalidate,
}
