"""Jobs: accesses that happen at some time between submit and wait.

While a job is in flight, every word that it may write holds both what it held and what the job
makes of it, and everything that a word holds meanwhile is kept, since that is what a read by the
job may give (C2).  After every operation the model looks at the words that somebody wrote, and at
the addresses where another mapping may have come to be.  A word that nobody else wrote in the
meantime is known again once the job was waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..operations import WORD, Kind, Operation
from ..outcomes import Outcome, decode_wait
from .accesses import change_of, check_answer, pieces
from .areas import pages_of, target_of
from .history import RACED
from .memory import Mapping
from .page import GRANULE, Page, Side, Watch
from .pending import Exposure, Pending
from .plain import NEED, OK, READ_WRITE, UNSUPPORTED
from .reach import Way, maybe_copied, way_of
from .state import Broken, Job, Part, Place, Problem, State
from .values import Values, apply, describe, holds, mixes, union
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
        if _allowed(state, job) and not state.excused:
            raise Broken(Problem.CALL, "submit must succeed: every access is allowed")
        return
    state.in_flight[name] = job
    job.reached = [set() for _ in job.accesses]
    job.must = [True] * len(job.accesses)
    _lay_out(job, state.geometry.page_size)
    for page in job.at:
        _visit(state, job, page)
    _settle(state)


def _lay_out(job: Job, page_size: int) -> None:
    """Where the job's accesses go, and what they make of each word."""
    job.parts = [[] for _ in job.accesses]
    for index, access in enumerate(job.accesses):
        for page, first, count, before in pieces(access, page_size):
            places = [(page, word) for word in range(first, first + count)]
            part = Part(index, page, before, places)
            job.parts[index].append(part)
            job.at.setdefault(page, []).append(part)
            for k, place in enumerate(places, before):
                changes = job.changes.setdefault(place, [])
                change = change_of(access, k)
                if change is not None:
                    changes.append(change)


def _allowed(state: State, job: Job) -> bool:
    # All of them, since looking at an access also tells which pages its buffer may have copied.
    found = [_must(state, access) for access in job.accesses]
    return all(found)


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
            if operation.kind == _UNMAP:
                job.unmapped.update(pages_of(operation))
            _conclude(state, job)


_UNMAP: Final = int(Kind.UNMAP)
_REMAP: Final = int(Kind.REMAP)
_INVALIDATING: Final = frozenset(map(int, (Kind.MAP, Kind.UNMAP, Kind.REMAP, Kind.DISCARD)))
"""Calls that always take the pages away.  A protection that stays as it was need not."""


def _meets(state: State, job: Job, operation: Operation) -> bool:
    """Whether the call changes a page that the job accesses, in the address space that it uses."""
    if operation.process != state.attached.get(job.device):
        return False
    changed = {*pages_of(operation)}
    if operation.kind == _REMAP:
        changed.update(target_of(operation))
    return any(page in changed for page, _ in job.exposures)


def observe(state: State, operation: Operation) -> None:
    """Look at every job in flight, after an operation that may have met it."""
    _note_others(state)
    if operation.kind in _UNSEEN:
        for job in _running(state):
            for page in job.at:
                _visit(state, job, page)
    _settle(state)


_UNSEEN: Final = frozenset(map(int, {Kind.PROTECT, Kind.PUNCH, Kind.TRUNCATE, Kind.EXIT}))
"""Calls that change mappings or files in place; all others put another slot in their place."""


def _note_others(state: State) -> None:
    """Mark the words that the operation has written, or may have."""
    for page, words in state.pending.items():
        if page.watch is not None and page.watch.written:
            for word in page.watch.written & words.keys():
                words[word].race()


def _running(state: State) -> list[Job]:
    return [job for job in state.in_flight.values() if not job.complete]


def _settle(state: State) -> None:
    """Look at what has changed until nothing has: what one job may write another may copy."""
    changed = True
    while changed:
        _follow(state)
        changed = _look(state)


def _follow(state: State) -> None:
    """Visit the addresses where something else may be mapped now, or may be copied."""
    jobs = _running(state)
    stirred = True
    while stirred:
        stirred = False
        for job in jobs:
            for page in _stirred(state, job):
                _visit(state, job, page)
                stirred = True


def _stirred(state: State, job: Job) -> list[int]:
    """Pages of the job with another slot than before, or another file page to copy."""
    space = state.mirrored(job.device)
    if space is None:
        return []
    slots = space.slots
    stirred = [page for page, slot in job.slots.items() if slots[page] is not slot]
    for page in job.through:
        if page not in stirred and any(_copies(job, mapping) for mapping in slots[page]):
            stirred.append(page)
    return stirred


def _look(state: State) -> bool:
    """Look at the words that have changed; True if jobs may have made anything new of them."""
    new = False
    for page, words in state.pending.items():
        watch = page.watch
        assert watch is not None, "set when the page was met"
        if not watch.written and not watch.settled and page.backing is None:
            continue
        written = watch.written
        page.watch = Watch()
        for granule in {word // GRANULE for word in words}:
            page.may_claim(granule * GRANULE, GRANULE)
        for word, pending in words.items():
            if pending.look(written=word in written):
                new = True
    return new


def _visit(state: State, job: Job, page: int) -> None:
    """Take in what is at an address of the job now, and what it may make of it."""
    for part in job.at[page]:
        way = _way(state, job.accesses[part.access])
        if way is None:
            job.must[part.access] = False
            continue
        if not way.must(page):
            job.must[part.access] = False
        if way.may(page):
            job.reached[part.access].add(page)
        found = _contents(job, way, page)
        if part.found is None or found != part.found:
            part.found = found
            for place in part.places:
                _expose(state, job, place, found)
    space = state.mirrored(job.device)
    if space is not None:
        slot = job.slots[page] = space.slots[page]
        if any(mapping is not None and mapping.through for mapping in slot):
            job.through.add(page)
        else:
            job.through.discard(page)


def _contents(job: Job, way: Way, page: int) -> list[Page]:
    """Contents that the job may reach at this page now."""
    _copy_through(job, way, page)
    mapped = [
        mapping.page()
        for mapping in way.space.slots[page]
        if mapping is not None and (way.need != READ_WRITE or not mapping.through)
    ]
    return [each for each in dict.fromkeys([*way.stale(page), *mapped]) if each is not None]


def _copies(job: Job, mapping: Mapping | None) -> bool:
    """Whether the job may copy a private file page that it did not know with these contents."""
    if mapping is None or not mapping.through:
        return False
    contents, before = mapping.page(), job.copied.get(mapping)
    return contents is not None and (before is None or not before.same(contents))


def _copy_through(job: Job, way: Way, page: int) -> None:
    """An access of the job may give a private file page its own copy, of what the file holds."""
    for mapping in way.space.slots[page]:
        if mapping is not None and _copies(job, mapping):
            contents = mapping.page()
            assert contents is not None
            job.copied[mapping] = contents.copy()
            maybe_copied(way.space, page)
            _race(job, page)


def _race(job: Job, page: int) -> None:
    """What the job may copy is not what it would have been when it was submitted."""
    for (place, _), exposure in job.exposures.items():
        exposure.raced |= place == page


def _expose(state: State, job: Job, place: Place, found: list[Page]) -> None:
    """Note what is at the word's address now, and that the job may change it."""
    word = place[1]
    exposure = job.exposures.get(place)
    if exposure is None:
        values = _held(found, word)
        exposure = job.exposures[place] = Exposure(job.changes[place], [], values, values)
    elif found != exposure.pages:
        exposure.raced = True
    for page in found:
        if page not in exposure.pages:
            exposure.pages.append(page)
            _pending(state, page, word).join(exposure)


def _held(pages: list[Page], word: int) -> Values:
    held: Values = frozenset()
    for page in pages:
        held = union(page.values(word), held)
    return held


def _pending(state: State, page: Page, word: int) -> Pending:
    words = state.pending.get(page)
    if words is None:
        words = state.pending[page] = {}
        page.watch = Watch()
    pending = words.get(word)
    if pending is None:
        pending = words[word] = Pending(page, word, tears=state.tears)
    return pending


def _leave(state: State, job: Job) -> None:
    """The job's accesses are done."""
    for (_, word), exposure in job.exposures.items():
        for page in exposure.pages:
            words = state.pending[page]
            pending = words[word]
            pending.leave(exposure)
            if not pending.exposures:
                del words[word]
            if not words:
                del state.pending[page]
                page.watch = None


def wait(state: State, operation: Operation, outcome: Outcome) -> None:
    """The job is done: judge its accesses, and settle what only it wrote."""
    job = state.in_flight.get((operation.device, operation.job))
    if job is None or outcome.status == UNSUPPORTED:
        return
    del state.in_flight[operation.device, operation.job]
    if not job.complete:
        _leave(state, job)
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
        _store(job)


def _check(state: State, job: Job, index: int, access: Operation, outcome: Outcome) -> None:
    check_answer(access, outcome)
    # Each page at a time of its own: an access as a whole is not atomic.
    parts, must = job.parts[index], job.must[index]
    may = job.reached[index].issuperset([part.page for part in parts])
    succeeded = outcome.status == OK
    if succeeded and not may:
        raise Broken(Problem.NO_FAULT, f"access {index + 1} of the job", page=access.page)
    if not succeeded and must and not state.excused:
        raise Broken(Problem.FAULT, f"access {index + 1} of the job faulted", page=access.page)
    process = state.attached[access.device]
    met = [part.page for part in parts if _met(job, part)]
    for page in met:
        state.history.marks[process][page] |= RACED
    if outcome.data:
        _check_values(job, index, words_of(outcome.data), tears=state.tears)
    exercised = state.history.exercised
    exercised["C2"] += len(met)
    overtaken = any(part.page in job.unmapped for part in parts)
    if succeeded and (overtaken or (may and not must)):
        exercised["C3"] += 1
    elif may and not must:
        exercised["C2"] += 1
    for part in parts:
        if part.before * WORD < outcome.done:
            state.history.device_access(access.device, process, part.page)


def _met(job: Job, part: Part) -> bool:
    """Whether somebody else wrote in this page, or changed the mapping, while in flight."""
    exposures = [job.exposures[place] for place in part.places if place in job.exposures]
    return any(exposure.raced or job.complete for exposure in exposures)


def _check_values(job: Job, index: int, old: Sequence[int], *, tears: bool) -> None:
    places = [place for part in job.parts[index] for place in part.places]
    for place, value in zip(places, old, strict=False):
        seen = job.exposures[place].seen if place in job.exposures else frozenset()
        if not (holds(seen, value) or (tears and mixes(seen, value))):
            page, word = place
            message = (
                f"access {index + 1} of the job: page {page} word {word}: "
                f"{value:#x}, allowed: {describe(seen)}"
            )
            raise Broken(Problem.VALUE, message, page=page, word=word, value=value)


def _conclude(state: State, job: Job) -> None:
    """The job has done all that it does."""
    _leave(state, job)
    _store(job)
    job.complete = True


def _store(job: Job) -> None:
    """Words that only this job touched hold what its accesses made of them, in order."""
    for (_, word), exposure in job.exposures.items():
        if exposure.changes and not exposure.raced and len(exposure.pages) == 1:
            values = exposure.before
            for change in exposure.changes:
                values = apply(change, values)
            exposure.pages[0].store(word, values)
            exposure.pages[0].writer = Side.DEVICE
