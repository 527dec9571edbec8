"""What a run can still become: a number for the whole state at a protocol point.

Two runs of a program that reach the same state go on alike under the same choices.  The state is
all that the host holds, all that the drivers hold, and where every task stands: the local
variables of the functions that it is in.  Only Python can be looked into like that; `Opaque` says
that something cannot.
"""

from __future__ import annotations

import enum
import sys
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
)
from typing import Any

from reference.geometry import Geometry
from reference.mirrors.files import PageCache
from reference.mirrors.frames import Frame, FramePool, SwapStore
from reference.mirrors.memory import HugePage, PageTableEntry
from reference.operations import Operation
from reference.outcomes import Outcome
from reference.program import Program
from reference.schedule import Schedule
from reference.trace import Effect

from .host import Host
from .ranges import Range
from .record import Record
from .tasks import Task, Tasks

__all__ = ["Opaque", "digest"]


class Opaque(TypeError):
    """Something that cannot be looked into; the message says what."""


_ATOMS = (int, str, bytes, float, complex, type(None), type, range, CodeType, BuiltinFunctionType)
_SKIPPED = frozenset(
    {
        *("choose", "_choose", "record", "_record", "taken", "steps", "most_steps", "stack"),
        *("_root", "_ranges", "_asked"),
    }
)
"""Attributes that say how a state was reached, not what it is."""


def digest(host: Host) -> int:
    """The number of the state in which the running task calls this."""
    walk = _Walk()
    state = walk(host)
    stacks = [_frames(walk, task) for task in host.tasks if task.current is not None]
    return hash((state, *stacks))


def _frames(walk: _Walk, task: Task) -> tuple[Any, ...]:
    """Where a task stands, function by function."""
    if task.stack is None:
        return ()
    # The running task has no suspended frame: its own is that of whoever asks.
    frame = task.stack.gr_frame or sys._getframe(2)
    return tuple(_locals(walk, each) for each in _chain(frame) if _counts(each))


def _chain(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None and frame.f_code.co_name != "_work":
        yield frame
        frame = frame.f_back


def _counts(frame: FrameType) -> bool:
    """Leave out the machinery of choosing, whose locals say how the state was reached."""
    module = frame.f_globals.get("__name__", "")
    return module not in _CHOOSING


_CHOOSING = frozenset({__name__, "reference.host.choosers", "reference.host.tasks"})


def _locals(walk: _Walk, frame: FrameType) -> tuple[Any, ...]:
    found = tuple((name, walk(value)) for name, value in sorted(frame.f_locals.items()))
    return frame.f_code.co_qualname, frame.f_lasti, found


class _Walk:
    """Turns anything into something hashable, objects by what they hold."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def __call__(self, thing: Any) -> Any:
        if isinstance(thing, _ATOMS):
            return thing
        handler = _HANDLERS.get(type(thing))
        if handler is not None and handler is _by_number:
            return (type(thing).__name__, thing.number)
        number = self._seen.get(id(thing))
        if number is not None:
            return ("seen", number)
        self._seen[id(thing)] = len(self._seen)
        if handler is not None:
            return handler(self, thing)
        return self._structure(thing)

    def _structure(self, thing: Any) -> Any:
        if isinstance(thing, enum.Enum):
            return thing.value
        if isinstance(thing, dict):
            return tuple((self(key), self(value)) for key, value in thing.items())
        if isinstance(thing, list | tuple):
            return tuple(map(self, thing))
        if isinstance(thing, set | frozenset):
            return frozenset(map(self, thing))
        if isinstance(thing, FunctionType):
            cells = thing.__closure__ or ()
            return thing.__qualname__, tuple(self(cell.cell_contents) for cell in cells)
        if isinstance(thing, MethodType):
            return thing.__func__.__qualname__, self(thing.__self__)
        if isinstance(thing, partial):
            return self(thing.func), self(thing.args), self(thing.keywords)
        if isinstance(thing, GeneratorType):
            frame = thing.gi_frame
            return None if frame is None else _locals(self, frame)
        if isinstance(thing, bytearray | array):
            return bytes(thing)
        return self._object(thing)

    def _object(self, thing: Any) -> Any:
        kind = type(thing)
        if any(base.__module__ == "_ctypes" for base in kind.__mro__):
            raise Opaque(f"{kind.__name__} is memory of C, and what that leads to is unknown")
        names = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
        held = dict(getattr(thing, "__dict__", {}))
        held |= {name: getattr(thing, name) for name in names if hasattr(thing, name)}
        if not held and kind.__module__ == "builtins":
            raise Opaque(f"{kind.__name__} cannot be looked into")
        return kind.__qualname__, tuple(
            (name, self(value)) for name, value in held.items() if name not in _SKIPPED
        )


def _by_number(walk: _Walk, thing: Any) -> Any:
    raise AssertionError("handled where it is met")


def _frame(walk: _Walk, frame: Frame) -> Any:
    return (
        *(frame.number, frame.references, frame.pins, frame.dirty, frame.fill),
        tuple((number, chunk.tobytes()) for number, chunk in sorted(frame.chunks.items())),
        frame.backing,
        walk(frame.cache),
        frame.locked is not None,
    )


def _pool(walk: _Walk, pool: FramePool) -> Any:
    return tuple(walk(frame) for frame in pool.live.values()), tuple(
        frame.number for frame in pool._free
    )


def _entry(walk: _Walk, entry: PageTableEntry) -> Any:
    return (
        *(entry.space.number, entry.slot, entry.swap, entry.present, entry.writable),
        *(entry.migrating, entry.exclusive is not None),
        None if entry.huge is None else (entry.huge.first, entry.huge.end, entry.huge.whole),
        None if entry.frame is None else entry.frame.number,
    )


def _task(walk: _Walk, task: Task) -> Any:
    current = None if task.current is None else task.current.operation
    return task.actor, current, len(task.jobs), task.waits_for, tuple(task.atomic)


def _tasks(walk: _Walk, tasks: Tasks) -> Any:
    return tuple(_task(walk, task) for task in tasks), tuple(tasks._interrupted), tasks.task.actor


def _itself(walk: _Walk, thing: Any) -> Any:
    return thing


_HANDLERS: dict[type, Callable[[_Walk, Any], Any]] = {
    **dict.fromkeys((Geometry, Operation, Outcome, Program, Schedule), _itself),
    Record: lambda walk, record: None,
    Frame: _frame,
    FramePool: _pool,
    PageTableEntry: _entry,
    Task: _task,
    Tasks: _tasks,
    Effect: lambda walk, effect: (effect.index, effect.operation, effect.outcome),
    Range: lambda walk, range_: (range_.start, range_.end, int(range_.event), range_.blockable),
    HugePage: lambda walk, huge: (huge.first, huge.end, huge.whole),
    SwapStore: lambda walk, store: len(store),
    PageCache: lambda walk, file: (file.size, file.users, tuple(map(walk, file._frames.values()))),
}
