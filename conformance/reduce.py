"""Reduce a failing program to the few operations that matter.

Works on the list of operations: first what cannot matter (nothing behind the failure, nothing
that shares no page, file or process with it), then delta debugging, then processes and devices
made one, then the arguments one by one, then names: pages, processes, devices, keys and jobs
become the lowest.

A step is kept if the program still breaks the contract.  It may be another rule than before: how
a bug shows, and so which rule it is found to break, is clear only in the shortest program.  But a
crash does not turn into a wrong value or the reverse, and nothing turns into a failure that was
expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from reference.model.judge import BREAKDOWN_RULES
from reference.operations import ACCESSES, ATOMICS, Flag, Kind, Operation
from reference.program import Program
from reference.signatures import SIGNATURES
from reference.trace import Violation
from reference.validity import repair

__all__ = ["Reduced", "Repeats", "Reproduce", "reduce"]

Reproduce = Callable[[Program], Violation | None]
"""Run a program once and judge it."""

Operations = tuple[Operation, ...]


@dataclass(frozen=True)
class Repeats:
    """How often a program is run, and how often it must fail to count as failing."""

    least: int = 1
    most: int = 1


STABLE = Repeats(1, 1)
UNSTABLE = Repeats(2, 10)
TRIALS = 3
"""Runs of the program as it was found, to tell whether it always fails."""


@dataclass(frozen=True)
class Reduced:
    """The shortest failing program found, and what it took."""

    program: Program
    violation: Violation
    runs: int
    unstable: bool
    """It does not fail every time it is run."""


@dataclass
class _Search:
    reproduce: Reproduce
    program: Program
    violation: Violation
    limit: int
    excluded: frozenset[str]
    runs: int = 0
    repeats: Repeats = STABLE
    tried: set[Operations] = field(default_factory=set)

    def attempt(self, operations: Iterable[Operation]) -> bool:
        """Take over the operations, repaired, if they are fewer or other and still fail."""
        candidate = tuple(repair(operations, self.program.geometry))
        if candidate in self.tried or self.runs >= self.limit or not candidate:
            return False
        self.tried.add(candidate)
        program = self.program.with_operations(candidate)
        violation = self._fails(program)
        if violation is None:
            return False
        self.program = program.with_operations(candidate[: violation.index + 1])
        self.violation = violation
        return True

    def _fails(self, program: Program) -> Violation | None:
        failures = 0
        for run in range(self.repeats.most):
            if failures + self.repeats.most - run < self.repeats.least:
                return None
            self.runs += 1
            violation = self.reproduce(program)
            if violation is not None and self.alike(violation):
                failures += 1
                if failures >= self.repeats.least:
                    return violation
        return None

    def alike(self, violation: Violation) -> bool:
        """Whether it may be the same bug that shows."""
        if violation.rule == self.violation.rule:
            return True
        rules = {violation.rule, self.violation.rule}
        return not rules & (_BREAKDOWNS | self.excluded)

    @property
    def operations(self) -> Operations:
        return self.program.operations


_BREAKDOWNS = frozenset(BREAKDOWN_RULES.values())


def reduce(
    program: Program,
    violation: Violation,
    reproduce: Reproduce,
    *,
    excluded: frozenset[str] = frozenset(),
    limit: int = 2000,
) -> Reduced:
    """Reduce a program that was seen to break a rule.

    `excluded` are rules that it must not come to break instead, `limit` bounds the runs of the
    candidate.  If the program does not fail again every time, each
    step is repeated and must fail twice, and the result is marked unstable; if it never fails
    again, it is given back as it was.
    """
    search = _Search(reproduce, program, violation, limit, excluded)
    again = [reproduce(program) for _ in range(TRIALS)]
    search.runs += TRIALS
    same = [each for each in again if each is not None and search.alike(each)]
    unstable = len(same) < TRIALS
    if unstable:
        search.repeats = UNSTABLE
    if not unstable or same:
        _reduce(search)
    return Reduced(search.program, search.violation, search.runs, unstable)


def _reduce(search: _Search) -> None:
    search.program = search.program.with_operations(search.operations[: search.violation.index + 1])
    search.attempt(_related(search.operations))
    while True:
        before = search.operations
        _delete(search)
        _unite(search)
        _simplify(search)
        search.attempt(_renamed(search.operations))
        if len(search.operations) <= _SMALL:
            _look_elsewhere(search)
        if search.operations == before or search.runs >= search.limit:
            break
    search.attempt(_restamped(search.operations))


# -- what cannot matter -----------------------------------------------------------------------


def _related(operations: Operations) -> list[Operation]:
    """The operations that may have to do with the last one, by page or file, and all set-up."""
    kept: list[Operation] = []
    touched = _places(operations[-1])
    for operation in reversed(operations):
        places = _places(operation)
        if operation.kind in _SETUP or places & touched:
            touched |= places
            kept.append(operation)
    return kept[::-1]


_SETUP = frozenset(
    {Kind.FORK, Kind.EXIT, Kind.ATTACH, Kind.DETACH, Kind.SUBMIT, Kind.WAIT, Kind.UNREGISTER}
)


def _places(operation: Operation) -> set[tuple[str, int]]:
    """Pages and files that an operation names."""
    places: set[tuple[str, int]] = set()
    if operation.kind == Kind.TRUNCATE:
        return {("file", operation.file)}
    pages = max(operation.pages, 1 + (operation.offset + operation.length > 4096))
    places |= {("page", page) for page in range(operation.page, operation.page + pages)}
    if operation.kind == Kind.REMAP:
        target = range(operation.target, operation.target + pages)
        places |= {("page", page) for page in target}
    if operation.kind == Kind.MAP and operation.flags & Flag.FILE:
        places.add(("file", operation.file))
    return places


# -- fewer operations -------------------------------------------------------------------------


def _delete(search: _Search) -> None:
    """Delta debugging: leave out runs of operations, long ones first, from the end backwards."""
    size = max(len(search.operations) // 2, 1)
    while size:
        progress = False
        end = len(search.operations)
        while end > 0:
            start = max(end - size, 0)
            operations = search.operations
            if search.attempt(operations[:start] + operations[end:]):
                progress = True
                end = min(start, len(search.operations))
            else:
                end = start
        if size == 1 and not progress:
            break
        size = size // 2 or 1


# -- fewer processes and devices --------------------------------------------------------------


def _unite(search: _Search) -> None:
    """Let a child's operations be its parent's, and one device's another's."""
    for fork in [each for each in search.operations if each.kind == Kind.FORK]:
        search.attempt(_as_parent(search.operations, fork))
    for device in sorted({each.device for each in search.operations}):
        if device:
            search.attempt([each._replace(device=0) for each in search.operations])


def _as_parent(operations: Operations, fork: Operation) -> list[Operation]:
    return [
        each._replace(process=fork.process) if each.process == fork.target else each
        for each in operations
        if each != fork
    ]


# -- simpler arguments ------------------------------------------------------------------------


def _simplify(search: _Search) -> None:
    """Every argument of every operation to the simplest that still fails."""
    index = len(search.operations) - 1
    while index >= 0:
        for change in _simpler(search.operations[index]):
            if index < len(search.operations):
                operations = list(search.operations)
                operations[index] = change(operations[index])
                if operations[index] != search.operations[index]:
                    search.attempt(operations)
        index = min(index, len(search.operations)) - 1


Change = Callable[[Operation], Operation]


def _simpler(operation: Operation) -> Iterator[Change]:
    kind = Kind(operation.kind)
    if kind in ACCESSES:
        yield lambda old: old._replace(offset=0, length=8)
        yield lambda old: old._replace(length=8)
        yield lambda old: old._replace(length=16) if old.length > 16 else old
        yield lambda old: old._replace(offset=0)
        if operation.job:
            yield lambda old: old._replace(job=0)
        if kind in ATOMICS:
            yield _as_read
            yield _as_write
    elif operation.pages > 1 and kind != Kind.TRUNCATE:
        yield lambda old: old._replace(pages=1)
        yield lambda old: old._replace(page=old.page + old.pages - 1, pages=1)
        yield lambda old: old._replace(pages=old.pages // 2) if old.pages > 2 else old
        yield lambda old: old._replace(pages=2) if old.pages > 2 else old
    yield from _simpler_flags(kind)
    for name in ("target", "file", "event"):
        if name in SIGNATURES[kind].fields and kind not in {Kind.REMAP, Kind.FORK}:
            yield _zeroed(name)


def _simpler_flags(kind: Kind) -> Iterator[Change]:
    if kind == Kind.MAP:
        yield lambda old: old._replace(flags=int(Flag.READ | Flag.WRITE), file=0, target=0)
        yield lambda old: old._replace(flags=old.flags & ~Flag.FILE, file=0, target=0)
        yield lambda old: old._replace(flags=old.flags & ~Flag.SHARED)
    if kind in {Kind.MAP, Kind.PROTECT, Kind.FAULT, Kind.REGISTER}:
        yield lambda old: old._replace(flags=old.flags | Flag.READ | Flag.WRITE)
    for flag in (Flag.DONTUNMAP, Flag.NONBLOCK):
        if any(argument.flag == flag for argument in SIGNATURES[kind].arguments):
            yield _without(flag)


def _zeroed(name: str) -> Change:
    return lambda old: old._replace(**{name: 0})


def _without(flag: Flag) -> Change:
    return lambda old: old._replace(flags=old.flags & ~flag)


def _as_read(operation: Operation) -> Operation:
    """An atomic as the read that it contains."""
    read = Kind.DREAD if operation.kind >= Kind.ATTACH else Kind.READ
    return operation._replace(kind=read, value=0, expected=0)


def _as_write(operation: Operation) -> Operation:
    """An atomic as the write that it contains."""
    write = Kind.DWRITE if operation.kind >= Kind.ATTACH else Kind.WRITE
    return operation._replace(kind=write, expected=0)


# -- other witnesses --------------------------------------------------------------------------


_SMALL = 10
"""Operations up to which every access is tried as another."""


def _look_elsewhere(search: _Search) -> None:
    """One operation fewer, with an access that looks from another side or at another time."""
    before = -1
    while before != len(search.operations):
        before = len(search.operations)
        for operations in _other_looks(search.operations):
            if search.attempt(operations) and len(search.operations) < before:
                break


def _other_looks(operations: Operations) -> Iterator[list[Operation]]:
    """The operations with one access turned into a read, and one other operation left out."""
    device = next((each.device for each in operations if each.kind == Kind.ATTACH), None)
    for index, operation in enumerate(operations):
        if operation.kind not in ACCESSES or operation.job:
            continue
        for read in _reads(operation, device):
            changed = [*operations[:index], read, *operations[index + 1 :]]
            if read != operation and index + 1 < len(operations):
                yield changed[: index + 1]
            for other in range(len(operations)):
                if other != index and read != operation:
                    yield [each for at, each in enumerate(changed) if at != other]


def _reads(operation: Operation, device: int | None) -> Iterator[Operation]:
    yield _as_read(operation)
    if operation.kind >= Kind.ATTACH:
        yield _as_read(operation)._replace(kind=Kind.READ, device=0, key=0)
    elif device is not None:
        yield _as_read(operation)._replace(kind=Kind.DREAD, device=device, process=0)


# -- lower names ------------------------------------------------------------------------------


def _renamed(operations: Sequence[Operation]) -> list[Operation]:
    """Pages, processes, devices, files, keys and jobs renamed to the lowest, in order of use."""
    pages = _page_names(operations)
    processes: dict[int, int] = {0: 0}
    names: dict[str, dict[int, int]] = {
        "device": {},
        "file": {},
        "key": {0: 0},
        "job": {0: 0},
    }
    renamed = []
    for operation in operations:
        fields = SIGNATURES[Kind(operation.kind)].fields
        changes: dict[str, int] = {}
        for name, known in names.items():
            if name in fields and (name != "file" or _names_file(operation)):
                value = getattr(operation, name)
                changes[name] = known.setdefault(value, len(known))
        if "process" in fields:
            changes["process"] = processes.setdefault(operation.process, len(processes))
        if operation.kind == Kind.FORK:
            changes["target"] = processes.setdefault(operation.target, len(processes))
        if "page" in fields:
            changes["page"] = pages[operation.page]
        if operation.kind == Kind.REMAP:
            changes["target"] = pages[operation.target]
        renamed.append(operation._replace(**changes))
    return renamed


def _names_file(operation: Operation) -> bool:
    return operation.kind == Kind.TRUNCATE or bool(operation.flags & Flag.FILE)


def _page_names(operations: Sequence[Operation]) -> dict[int, int]:
    """New numbers for pages: order and neighbourhood stay, gaps of unused pages close to one."""
    used = {
        number
        for operation in operations
        for kind, number in _places(operation)
        if kind == "page" and operation.kind not in _PLACELESS
    }
    names: dict[int, int] = {}
    following = 0
    for page in range(max(used, default=0) + 1):
        names[page] = following
        if page in used:
            following += 1
    return names


_PLACELESS = frozenset(kind for kind in Kind if "page" not in SIGNATURES[kind].fields)


def _restamped(operations: Sequence[Operation]) -> list[Operation]:
    """Values by position, so that a program says which write a value is from."""
    new: dict[int, int] = {}
    restamped = []
    for index, operation in enumerate(operations):
        changes: dict[str, int] = {}
        fields = SIGNATURES[Kind(operation.kind)].fields
        if "expected" in fields:
            base = max((old for old in new if old <= operation.expected), default=None)
            if base is not None and operation.expected - base < 1 << 19:
                changes["expected"] = new[base] + operation.expected - base
        if "value" in fields:
            add = operation.kind in {Kind.ADD, Kind.DADD}
            changes["value"] = (index + 1) << (44 if add else 20)
            new[operation.value] = changes["value"]
        restamped.append(operation._replace(**changes))
    return restamped
