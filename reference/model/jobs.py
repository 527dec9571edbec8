"""Jobs: accesses that happen at some time between submit and wait.

While a job is in flight, every word that it may write holds both what it held and what the job
makes of it, and everything that a word holds meanwhile is kept, since that is what a read by the
job may give (C2).  The model looks at these words after every operation, by address, so it also
notices when another mapping has come to be there.  A word that nobody else wrote in the meantime
is known again once the job was waited for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..operations import WORD, Kind, Operation
from ..outcomes import Outcome, Status, decode_wait
from .accesses import CPU_KIND, Change, change_of, check_answer, pieces
from .history import Mark
from .page import Page, Side, Watch
from .reach import READ, READ_WRITE, Way, maybe_copied
from .state import Broken, Exposure, Job, Problem, State
from .values import Values, apply, describe, holds, union

__all__ = ["before", "enqueue", "observe", "submit", "wait"]


def enqueue(state: State, operation: Operation, outcome: Outcome) -> None:
    """An access with a job was queued; a device that refuses it does not do it."""
    if outcome.status == Status.OK:
        if outcome.done or outcome.data:
            raise Broken(Problem.ANSWER, "a queued access has no data yet")
        name = (operation.device, operation.job)
        state.queued.setdefault(name, Job(operation.device, [])).accesses.append(operation)
    elif outcome.status != Status.UNSUPPORTED:
        raise Broken(Problem.CALL, "queueing an access must succeed", page=operation.page)


def submit(state: State, operation: Operation, outcome: Outcome) -> None:
    """From here on the job's accesses may happen."""
    name = (operation.device, operation.job)
    job = state.queued.pop(name, None)
    if job is None or outcome.status == Status.UNSUPPORTED:
        return
    if outcome.status != Status.OK:
        if _allowed(state, job):
            raise Broken(Problem.CALL, "submit must succeed: every access is allowed")
        return
    others = [other for other in state.in_flight.values() if not other.complete]
    state.in_flight[name] = job
    job.reached = [set() for _ in job.accesses]
    job.must = [True] * len(job.accesses)
    _look(state, [job, *others])


def _look(state: State, jobs: list[Job]) -> None:
    """Take in what is there now.

    What one job may write another may read, and write again: where they meet they can take turns.
    """
    for job in jobs:
        _observe(state, job)
    if _meet(state) and len(jobs) > 1:
        for _ in range(max(len(job.accesses) for job in jobs)):
            for job in jobs:
                _observe(state, job)
    for job in jobs:
        _watch(state, job)


def _meet(state: State) -> bool:
    """Words that jobs reach in two ways, at whatever addresses, are nobody's alone.

    True if there are any.
    """
    met = False
    first: dict[tuple[Page, int], Exposure] = {}
    for job in state.in_flight.values():
        for (_, word), exposure in job.exposures.items():
            for page in exposure.pages:
                other = first.setdefault((page, word), exposure)
                if other is not exposure:
                    exposure.raced = other.raced = met = True
    return met


def _allowed(state: State, job: Job) -> bool:
    return all(_must(state, access) for access in job.accesses)


def _must(state: State, access: Operation) -> bool:
    way = _way(state, access)
    size = state.geometry.page_size
    return way is not None and all(way.reach(page).must for page, *_ in pieces(access, size))


def _way(state: State, access: Operation) -> Way | None:
    space = state.mirrored(access.device)
    need = READ if CPU_KIND[access.kind] == Kind.READ else READ_WRITE
    return None if space is None else Way(state, access, space, need)


def before(state: State, operation: Operation, outcome: Outcome) -> None:
    """Where invalidations wait for jobs, a change of the mapping comes after the job's last act."""
    if not state.sync.waits or operation.kind not in _INVALIDATING or outcome.status != Status.OK:
        return
    for job in state.in_flight.values():
        if not job.complete and all(job.must) and _meets(state, job, operation):
            _conclude(state, job)
            job.complete = True


_INVALIDATING = frozenset({Kind.MAP, Kind.UNMAP, Kind.REMAP, Kind.DISCARD})
"""Calls that always take the pages away.  A protection that stays as it was need not."""


def _meets(state: State, job: Job, operation: Operation) -> bool:
    """Whether the call changes a page that the job accesses, in the address space that it uses."""
    if operation.process != state.attached.get(job.device):
        return False
    changed = set(range(operation.page, operation.page + operation.pages))
    if operation.kind == Kind.REMAP:
        changed |= set(range(operation.target, operation.target + operation.pages))
    return any(page in changed for page, _ in job.exposures)


def observe(state: State, operation: Operation) -> None:
    """Look at every job in flight, after an operation that may have met it."""
    jobs = [job for job in state.in_flight.values() if not job.complete]
    if operation.kind not in _UNSEEN and not any(_stirred(state, job) for job in jobs):
        return
    for job in jobs:
        for (_, word), exposure in job.exposures.items():
            if any(_disturbed(page, word) for page in exposure.pages):
                exposure.raced = True
    _look(state, jobs)


_UNSEEN = frozenset(map(int, {Kind.PROTECT, Kind.PUNCH, Kind.TRUNCATE, Kind.EXIT}))
"""Calls that change mappings or files in place; all others put another slot in their place."""


def _disturbed(page: Page, word: int) -> bool:
    """Whether somebody else may have changed what the word holds."""
    return page.backing is not None or (page.watch is not None and word in page.watch.written)


def _stirred(state: State, job: Job) -> bool:
    """Whether anything has changed that the job may meet."""
    space = state.mirrored(job.device)
    watched = job.watched
    if any(p.watch is None or not p.watch.quiet or p.backing is not None for p in watched):
        return True
    return any(space is None or space.slots[page] is not slot for page, slot in job.slots.items())


def _watch(state: State, job: Job) -> None:
    """Remember what the job meets now, to see what changes."""
    space = state.mirrored(job.device)
    pages = () if space is None else {page for page, _ in job.exposures}
    job.slots = {page: space.slots[page] for page in pages if space is not None}
    # A write of the job may yet copy what a file holds, which may change until then.
    slots = job.slots.values()
    behind = [m.page() for slot in slots for m in slot if m is not None and m.through]
    met = [page for exposure in job.exposures.values() for page in exposure.pages]
    job.watched = [page for page in dict.fromkeys([*met, *behind]) if page is not None]
    for page in job.watched:
        page.watch = Watch()


def _observe(state: State, job: Job) -> None:
    """Take in what is at the job's addresses now, and what it may make of it."""
    for index, access in enumerate(job.accesses):
        way = _way(state, access)
        must = way is not None
        for page, first, count, words_before in pieces(access, state.geometry.page_size):
            if way is None:
                break
            reach = way.reach(page)
            must = must and reach.must
            if reach.may:
                job.reached[index].add(page)
            found = _contents(job, way, page)
            for k in range(count):
                _expose(job, access, (page, first + k), words_before + k, found)
        job.must[index] = job.must[index] and must
    for (_, word), exposure in job.exposures.items():
        exposure.seen = union(exposure.seen, _held(exposure.pages, word))


def _contents(job: Job, way: Way, page: int) -> list[Page]:
    """Contents that the job may reach at this page now."""
    _copy_through(job, way, page)
    mapped = [
        mapping.page()
        for mapping in way.space.slots[page]
        if mapping is not None and (way.need == READ or not mapping.through)
    ]
    return [each for each in dict.fromkeys([*way.stale(page), *mapped]) if each is not None]


def _copy_through(job: Job, way: Way, page: int) -> None:
    """An access of the job may give a private file page its own copy, of what the file holds."""
    for mapping in way.space.slots[page]:
        contents = mapping.page() if mapping is not None and mapping.through else None
        if mapping is not None and contents is not None:
            before = job.copied.get(mapping)
            if before is None or not before.same(contents):
                job.copied[mapping] = contents.copy()
                maybe_copied(way.space, page)
                _race(job, page)


def _race(job: Job, page: int) -> None:
    """What the job may copy is not what it would have been when it was submitted."""
    for (place, _), exposure in job.exposures.items():
        exposure.raced |= place == page


def _expose(job: Job, access: Operation, place: tuple[int, int], k: int, found: list[Page]) -> None:
    """Note what the word's address holds now, and that the access may change it."""
    word = place[1]
    exposure = job.exposures.get(place)
    if exposure is None:
        values = _held(found, word)
        exposure = job.exposures[place] = Exposure(list(found), values, values)
    elif found != exposure.pages:
        exposure.raced = True
        exposure.pages += [page for page in found if page not in exposure.pages]
    change = change_of(access, k)
    exposure.seen = union(exposure.seen, _held(exposure.pages, word))
    if change is not None:
        for page in exposure.pages:
            page.may_store(word, apply(change, page.values(word)))


def _held(pages: list[Page], word: int) -> Values:
    held: Values = frozenset()
    for page in pages:
        held = union(held, page.values(word))
    return held


def wait(state: State, operation: Operation, outcome: Outcome) -> None:
    """The job is done: judge its accesses, and settle what only it wrote."""
    job = state.in_flight.get((operation.device, operation.job))
    if job is None or outcome.status == Status.UNSUPPORTED:
        return
    del state.in_flight[operation.device, operation.job]
    if outcome.status != Status.OK:
        if all(job.must):
            raise Broken(Problem.CALL, "wait must succeed: every access was allowed")
        return
    try:
        outcomes = decode_wait(outcome.data, len(job.accesses))
    except ValueError as error:
        raise Broken(Problem.ANSWER, f"wait: {error}") from None
    for index, (access, done) in enumerate(zip(job.accesses, outcomes, strict=True)):
        _check(state, job, index, access, done)
    if not job.complete and all(done.status == Status.OK for done in outcomes):
        _conclude(state, job)


def _check(state: State, job: Job, index: int, access: Operation, outcome: Outcome) -> None:
    check_answer(access, outcome)
    # Each page at a time of its own: an access as a whole is not atomic.
    may = job.reached[index] >= {page for page, *_ in pieces(access, state.geometry.page_size)}
    if outcome.status == Status.OK and not may:
        raise Broken(Problem.NO_FAULT, f"access {index + 1} of the job", page=access.page)
    if outcome.status != Status.OK and job.must[index]:
        raise Broken(Problem.FAULT, f"access {index + 1} of the job faulted", page=access.page)
    process = state.attached[access.device]
    met = _met(state, job, access)
    for page in met:
        state.history.marks[process][page] |= Mark.RACED
    _check_values(job, index, access, outcome, state.geometry.page_size)
    exercised = state.history.exercised
    exercised["C2"] += len(met)
    if not job.must[index] and may:
        exercised["C3" if outcome.status == Status.OK else "C2"] += 1
    for page, _, _, words_before in pieces(access, state.geometry.page_size):
        if words_before * WORD < outcome.done:
            state.history.device_access(access.device, process, page)


def _met(state: State, job: Job, access: Operation) -> list[int]:
    """Pages of an access where somebody else wrote, or changed the mapping, while in flight."""
    return [
        page
        for page, first, count, _ in pieces(access, state.geometry.page_size)
        if any(
            exposure is not None and (exposure.raced or job.complete)
            for exposure in (job.exposures.get((page, first + k)) for k in range(count))
        )
    ]


def _check_values(
    job: Job, index: int, access: Operation, outcome: Outcome, page_size: int
) -> None:
    if not outcome.data:
        return
    old = struct.unpack(f"<{len(outcome.data) // WORD}Q", outcome.data)
    for page, first, count, before in pieces(access, page_size):
        for k in range(count):
            if before + k >= len(old):
                return
            exposure = job.exposures.get((page, first + k))
            seen = frozenset() if exposure is None else exposure.seen
            if not holds(seen, old[before + k]):
                message = (
                    f"access {index + 1} of the job: page {page} word {first + k}: "
                    f"{old[before + k]:#x}, allowed: {describe(seen)}"
                )
                raise Broken(
                    Problem.VALUE, message, page=page, word=first + k, value=old[before + k]
                )


def _conclude(state: State, job: Job) -> None:
    """Words that only this job touched hold what its accesses made of them, in order."""
    for place, exposure in job.exposures.items():
        if exposure.raced or len(exposure.pages) != 1:
            continue
        changes = list(_changes(state, job, place))
        values = exposure.before
        for change in changes:
            values = apply(change, values)
        if changes:
            exposure.pages[0].store(place[1], values)
            exposure.pages[0].writer = Side.DEVICE


def _changes(state: State, job: Job, place: tuple[int, int]) -> Iterator[Change]:
    """What the job's accesses do to one word, in order."""
    for access in job.accesses:
        for page, first, count, words_before in pieces(access, state.geometry.page_size):
            if page == place[0] and first <= place[1] < first + count:
                change = change_of(access, words_before + place[1] - first)
                if change is not None:
                    yield change
