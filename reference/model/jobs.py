"""Jobs: accesses that happen at some time between submit and wait.

While a job is in flight, every word that it may write holds both what it held and what the job
makes of it, and everything that a word holds meanwhile is kept, since that is what a read by the
job may give (C2).  The model looks at these words after every operation, by address, so it also
notices when another mapping has come to be there.  A word that nobody else wrote in the meantime
is known again once the job was waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_not

from ..operations import WORD, Kind, Operation
from ..outcomes import Outcome, decode_wait
from .accesses import change_of, check_answer, pieces
from .areas import pages_of, target_of
from .history import RACED
from .page import Page, Side, Watch
from .plain import NEED, OK, READ_WRITE, UNSUPPORTED
from .reach import Way, maybe_copied, way_of
from .state import Broken, Exposure, Job, Part, Place, Problem, State
from .values import Change, Values, apply, describe, holds, union
from .words import words_of

__all__ = ["before", "enqueue", "observe", "submit", "wait"]


def enqueue(state: State, operation: Operation, outcome: Outcome) -> None:
    """An access with a job was queued; a device that refuses it does not do it."""
    if outcome.status == OK:
        if outcome.done or outcome.data:
            raise Broken(Problem.ANSWER, "a queued access has no data yet")
        name = (operation.device, operation.job)
        state.queued.setdefault(name, Job(operation.device, [])).accesses.append(operation)
    elif outcome.status != UNSUPPORTED:
        raise Broken(Problem.CALL, "queueing an access must succeed", page=operation.page)


def submit(state: State, operation: Operation, outcome: Outcome) -> None:
    """From here on the job's accesses may happen."""
    name = (operation.device, operation.job)
    job = state.queued.pop(name, None)
    if job is None or outcome.status == UNSUPPORTED:
        return
    if outcome.status != OK:
        if _allowed(state, job):
            raise Broken(Problem.CALL, "submit must succeed: every access is allowed")
        return
    others = [other for other in state.in_flight.values() if not other.complete]
    state.in_flight[name] = job
    job.parts = [_parts(access, state.geometry.page_size) for access in job.accesses]
    job.reached = [set() for _ in job.accesses]
    job.must = [True] * len(job.accesses)
    _look(state, [job, *others])


def _parts(access: Operation, page_size: int) -> list[Part]:
    return [
        Part(
            page, before, [((page, first + k), change_of(access, before + k)) for k in range(count)]
        )
        for page, first, count, before in pieces(access, page_size)
    ]


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
    return way is not None and all(way.must(page) for page, *_ in pieces(access, size))


def _way(state: State, access: Operation) -> Way | None:
    space = state.mirrored(access.device)
    return None if space is None else way_of(state, access, space, NEED[access.kind])


def before(state: State, operation: Operation, outcome: Outcome) -> None:
    """Where invalidations wait for jobs, a change of the mapping comes after the job's last act."""
    if not state.sync.waits or operation.kind not in _INVALIDATING or outcome.status != OK:
        return
    for job in state.in_flight.values():
        if not job.complete and all(job.must) and _meets(state, job, operation):
            _conclude(job)
            job.complete = True


_INVALIDATING = frozenset(map(int, (Kind.MAP, Kind.UNMAP, Kind.REMAP, Kind.DISCARD)))
"""Calls that always take the pages away.  A protection that stays as it was need not."""


def _meets(state: State, job: Job, operation: Operation) -> bool:
    """Whether the call changes a page that the job accesses, in the address space that it uses."""
    if operation.process != state.attached.get(job.device):
        return False
    changed = {*pages_of(operation)}
    if operation.kind == Kind.REMAP:
        changed.update(target_of(operation))
    return any(page in changed for page, _ in job.exposures)


def observe(state: State, operation: Operation) -> None:
    """Look at every job in flight, after an operation that may have met it."""
    jobs = [job for job in state.in_flight.values() if not job.complete]
    if operation.kind not in _UNSEEN and not any(_stirred(state, job) for job in jobs):
        return
    for job in jobs:
        _note_others(job)
    _look(state, jobs)


_UNSEEN = frozenset(map(int, {Kind.PROTECT, Kind.PUNCH, Kind.TRUNCATE, Kind.EXIT}))
"""Calls that change mappings or files in place; all others put another slot in their place."""


def _note_others(job: Job) -> None:
    """Mark the words that somebody else has, or may have, written since the last look."""
    for (_, word), exposure in job.exposures.items():
        for page in exposure.pages:
            if page.backing is not None or (page.watch is not None and word in page.watch.written):
                exposure.raced = True


def _stirred(state: State, job: Job) -> bool:
    """Whether anything has changed that the job may meet."""
    for page in job.watched:
        watch = page.watch
        if watch is None or watch.written or watch.settled or page.backing is not None:
            return True
    space = state.mirrored(job.device)
    if space is None:
        return bool(job.slots)
    now = [space.slots[page] for page in job.slots]
    return any(map(is_not, now, job.slots.values()))


def _watch(state: State, job: Job) -> None:
    """Remember what the job meets now, to see what changes."""
    space = state.mirrored(job.device)
    met = dict.fromkeys([page for exposure in job.exposures.values() for page in exposure.pages])
    job.slots = {}
    if space is not None:
        job.slots = {page: space.slots[page] for page, _ in job.exposures}
        for slot in job.slots.values():
            for mapping in slot:
                # A write of the job may yet copy what a file holds, which may change until then.
                behind = mapping.page() if mapping is not None and mapping.through else None
                if behind is not None:
                    met[behind] = None
    job.watched = list(met)
    for page in job.watched:
        page.watch = Watch()


def _observe(state: State, job: Job) -> None:
    """Take in what is at the job's addresses now, and what it may make of it."""
    for index, (access, parts) in enumerate(zip(job.accesses, job.parts, strict=True)):
        way = _way(state, access)
        if way is None:
            job.must[index] = False
            continue
        for part in parts:
            job.must[index] = job.must[index] and way.must(part.page)
            if way.may(part.page):
                job.reached[index].add(part.page)
            found = _contents(job, way, part.page)
            for place, change in part.changes:
                _expose(job, place, change, found)
    for (_, word), exposure in job.exposures.items():
        held = _held(exposure.pages, word)
        if held is not exposure.seen:
            exposure.seen = union(held, exposure.seen)


def _contents(job: Job, way: Way, page: int) -> list[Page]:
    """Contents that the job may reach at this page now."""
    _copy_through(job, way, page)
    mapped = [
        mapping.page()
        for mapping in way.space.slots[page]
        if mapping is not None and (way.need != READ_WRITE or not mapping.through)
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


def _expose(job: Job, place: Place, change: Change | None, found: list[Page]) -> None:
    """Note what is at the word's address now, and that the access may change it."""
    word = place[1]
    exposure = job.exposures.get(place)
    if exposure is None:
        values = _held(found, word)
        exposure = job.exposures[place] = Exposure(found[:], values, values)
    elif found != exposure.pages:
        exposure.raced = True
        exposure.pages += [page for page in found if page not in exposure.pages]
    if change is not None:
        for page in exposure.pages:
            page.may_change(word, change)


def _held(pages: list[Page], word: int) -> Values:
    if len(pages) == 1:
        return pages[0].values(word)
    held: Values = frozenset()
    for page in pages:
        held = union(held, page.values(word))
    return held


def wait(state: State, operation: Operation, outcome: Outcome) -> None:
    """The job is done: judge its accesses, and settle what only it wrote."""
    job = state.in_flight.get((operation.device, operation.job))
    if job is None or outcome.status == UNSUPPORTED:
        return
    del state.in_flight[operation.device, operation.job]
    if outcome.status != OK:
        if all(job.must):
            raise Broken(Problem.CALL, "wait must succeed: every access was allowed")
        return
    try:
        outcomes = decode_wait(outcome.data, len(job.accesses))
    except ValueError as error:
        raise Broken(Problem.ANSWER, f"wait: {error}") from None
    for index, (access, done) in enumerate(zip(job.accesses, outcomes, strict=True)):
        _check(state, job, index, access, done)
    if not job.complete and all(done.status == OK for done in outcomes):
        _conclude(job)


def _check(state: State, job: Job, index: int, access: Operation, outcome: Outcome) -> None:
    check_answer(access, outcome)
    # Each page at a time of its own: an access as a whole is not atomic.
    parts, must = job.parts[index], job.must[index]
    may = job.reached[index].issuperset([part.page for part in parts])
    succeeded = outcome.status == OK
    if succeeded and not may:
        raise Broken(Problem.NO_FAULT, f"access {index + 1} of the job", page=access.page)
    if not succeeded and must:
        raise Broken(Problem.FAULT, f"access {index + 1} of the job faulted", page=access.page)
    process = state.attached[access.device]
    met = [part.page for part in parts if _met(job, part)]
    for page in met:
        state.history.marks[process][page] |= RACED
    if outcome.data:
        _check_values(job, index, words_of(outcome.data))
    exercised = state.history.exercised
    exercised["C2"] += len(met)
    if may and not must:
        exercised["C3" if succeeded else "C2"] += 1
    for part in parts:
        if part.before * WORD < outcome.done:
            state.history.device_access(access.device, process, part.page)


def _met(job: Job, part: Part) -> bool:
    """Whether somebody else wrote in this page, or changed the mapping, while in flight."""
    exposures = [job.exposures[place] for place, _ in part.changes if place in job.exposures]
    return any(exposure.raced or job.complete for exposure in exposures)


def _check_values(job: Job, index: int, old: Sequence[int]) -> None:
    places = [place for part in job.parts[index] for place, _ in part.changes]
    for place, value in zip(places, old, strict=False):
        seen = job.exposures[place].seen if place in job.exposures else frozenset()
        if not holds(seen, value):
            page, word = place
            message = (
                f"access {index + 1} of the job: page {page} word {word}: "
                f"{value:#x}, allowed: {describe(seen)}"
            )
            raise Broken(Problem.VALUE, message, page=page, word=word, value=value)


def _conclude(job: Job) -> None:
    """Words that only this job touched hold what its accesses made of them, in order."""
    changes: dict[Place, list[Change]] = {}
    for parts in job.parts:
        for part in parts:
            for place, change in part.changes:
                if change is not None:
                    changes.setdefault(place, []).append(change)
    for place, several in changes.items():
        exposure = job.exposures.get(place)
        if exposure is not None and not exposure.raced and len(exposure.pages) == 1:
            values = exposure.before
            for change in several:
                values = apply(change, values)
            exposure.pages[0].store(place[1], values)
            exposure.pages[0].writer = Side.DEVICE
