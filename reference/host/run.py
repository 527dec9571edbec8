"""A program on the host: operations become jobs of actors, and the schedule orders them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

from reference.drivers.driver import Driver, Unopened
from reference.mirrors.access import FAULT, is_write, perform
from reference.mirrors.calls import OK, failed
from reference.mirrors.events import skipped
from reference.operations import CPU_ACCESSES, DEVICE_ACCESSES, EVENTS, Flag, Kind, Operation
from reference.outcomes import Outcome, Status, encode_wait
from reference.program import Program
from reference.schedule import DEVICE, ENGINE, Offer, Switch, actor_of
from reference.trace import Effect, Hosted, Interruption, Stop

from .answers import errno_of
from .broken import Broken
from .calls import SystemCalls
from .choosers import Explore, chooser
from .events import MemoryEvents
from .hardware import Device, Job, pieces
from .host import Host
from .kernel import Kernel
from .leaks import leaks
from .record import Entry, What
from .tasks import Job as Work

__all__ = ["HOSTED", "Run", "run_program"]

HOSTED = frozenset(Kind) - {Kind.SNAPSHOT}
"""What programs on the host may do: a driver is asked for nothing but what the device needs."""

Handler = Callable[[int, Operation], Outcome]
# To look up a member of an enumeration takes as long as a call of a function.
_BEGIN, _END = What.BEGIN, What.END
_ATTACH, _FORK, _EXIT = Kind.ATTACH, Kind.FORK, Kind.EXIT
_CALLS = frozenset(
    {
        *(Kind.MAP, Kind.UNMAP, Kind.REMAP, Kind.PROTECT, Kind.DISCARD, Kind.PUNCH, Kind.FREE),
        *(Kind.TRUNCATE, Kind.FORK, Kind.EXIT),
    }
)


@dataclass
class Run:
    """What came of a program."""

    outcomes: list[Outcome] = field(default_factory=list)
    """Of the operations, in program order; up to the first that did not end."""
    history: list[Effect] = field(default_factory=list)
    """Effects in the order in which they came about."""
    record: list[Entry] = field(default_factory=list)
    taken: list[Interruption] = field(default_factory=list)
    """Where somebody else ran on than without a schedule."""
    broken: Broken | None = None
    """The rule that was broken so that the run could not go on."""
    operation: int = 0
    """In which operation."""
    points: int = 0
    """Protocol points that were passed."""
    offers: list[Offer] = field(default_factory=list)
    """What else could have been chosen, if the schedule's strategy is to explore."""
    asked: dict[str, int] = field(default_factory=dict)
    """How often each site was asked whether it fails."""

    @property
    def switches(self) -> list[Switch]:
        """The schedule that was taken."""
        return [each.switch for each in self.taken]

    def plain(self) -> Hosted:
        """The run as plain data, which another process may be told."""
        broken = self.broken
        return Hosted(
            history=tuple(self.history),
            record=tuple(self.record),
            taken=tuple(self.taken),
            broken=Stop(broken.rule, str(broken), self.operation) if broken else None,
            points=self.points,
            asked=self.asked,
            offers=tuple(self.offers),
        )


def run_program(program: Program, make: Callable[[Kernel, Device], Driver]) -> Run:
    """Run a program on a fresh host, with a driver of its own for each device."""
    return _Execution(program, make).run()


class _Execution:
    """One run of one program."""

    def __init__(self, program: Program, make: Callable[[Kernel, Device], Driver]) -> None:
        self._program = program
        self.host = host = Host(program.geometry, program.schedule.injections)
        self._choose = host.tasks.choose = chooser(program.schedule, host, len(program.operations))
        self._calls, self._events = SystemCalls(host), MemoryEvents(host)
        for number in range(program.geometry.devices):
            device = Device(host, number)
            host.devices.append(device)
            device.driver = make(Kernel(host, device), device)
        self._outcomes: dict[int, Outcome] = {}
        self._begun: set[int] = set()

    def run(self) -> Run:
        result = Run()
        operations = self._program.operations
        needs = _dependencies(operations)
        tasks = self.host.tasks
        for index, operation in enumerate(operations):
            body = partial(self._perform, index, operation)
            ready = partial(self._done, needs[index]) if needs[index] else None
            tasks.add(actor_of(operation), Work(index, body, ready))
        for device in self.host.devices:
            body = partial(self._close, device)
            tasks.add(
                DEVICE + device.number,
                Work(len(operations), body, lambda: len(self._outcomes) == len(operations)),
            )
        try:
            tasks.run()
            leaks(self.host)
        except Broken as broken:
            result.broken = broken
            result.operation = min(self.host.record.operation, max(len(operations) - 1, 0))
        return self._result(result)

    def _result(self, result: Run) -> Run:
        host = self.host
        for index in range(len(self._program.operations)):
            if index not in self._outcomes:
                break
            result.outcomes.append(self._outcomes[index])
        result.history, result.record = host.history, host.record.entries
        result.taken, result.points = host.tasks.taken, host.tasks.steps
        result.asked = host.asked
        if isinstance(self._choose, Explore):
            result.offers = self._choose.offers
        return result

    def _done(self, needed: tuple[int, ...]) -> bool:
        return all(index in self._outcomes for index in needed)

    def _perform(self, index: int, operation: Operation) -> None:
        record = self.host.record
        record(_BEGIN, operation.kind)
        try:
            outcome = self._outcomes[index] = _HANDLERS[operation.kind](self)(index, operation)
        except Broken:
            raise
        except Exception as error:
            raise Broken("R4", _raised(error)) from error
        record(_END, operation.kind, int(outcome.status))

    # The CPU

    def _cpu_access(self, index: int, operation: Operation) -> Outcome:
        host, space = self.host, self.host.spaces[operation.process]
        data: list[bytes] = []
        done, size = 0, host.geometry.page_size
        for piece in pieces(operation, size):
            host.tasks.point("CPU access")
            frame = space.reach(piece.page, is_write(piece))
            if frame is None:
                host.effect(index, piece, FAULT)
                return Outcome(Status.FAULT, errno.EFAULT, done, b"".join(data))
            outcome = perform(piece, lambda _slot, _write, frame=frame: frame, size)  # type: ignore[misc]
            host.effect(index, piece, outcome)
            data.append(outcome.data)
            done += piece.length
        return Outcome(Status.OK, 0, done, b"".join(data))

    # Devices

    def _device(self, operation: Operation) -> Device:
        return self.host.devices[operation.device]

    def _effect(self, index: int, operation: Operation, outcome: Outcome) -> Outcome:
        self.host.effect(index, operation, outcome)
        return outcome

    def _answer(self, index: int, operation: Operation, answer: object) -> Outcome:
        """What a driver's entry point answered, as the operation's outcome."""
        error = errno_of(answer)
        return self._effect(index, operation, failed(error) if error else OK)

    def _found(self, index: int, operation: Operation, answer: object) -> Outcome:
        """What a driver answered, as of when the host let it know, whatever has changed since."""
        error, task = errno_of(answer), self.host.tasks.task
        outcome = failed(error) if error else OK
        place = task.denied if error else task.granted
        self._device(operation).found(place, index, operation, outcome)
        return outcome

    def _attach(self, index: int, operation: Operation) -> Outcome:
        device, space = self._device(operation), self.host.spaces[operation.process]
        device.mm = space
        owner = self.host.owner_number(device.owner)
        self.host.record(What.ATTACH, device.number, space.number, owner)
        answer = device.driver.open(space)
        if errno_of(answer):
            device.driver = Unopened(device.driver)
        return self._answer(index, operation, answer)

    def _detach(self, index: int, operation: Operation) -> Outcome:
        device = self._device(operation)
        device.driver.close()
        self._left(device)
        return self._answer(index, operation, 0)

    def _left(self, device: Device) -> None:
        self.host.record(What.DETACH, device.number)
        device.mm = None

    def _close(self, device: Device) -> None:
        """The end of the program: what is open is closed, as when a process dies."""
        if device.mm is not None:
            for job in list(device.jobs.values()):
                if job.submitted:
                    self._await(device, job)
            device.driver.close()
            self._left(device)

    def _device_access(self, index: int, operation: Operation) -> Outcome:
        device = self._device(operation)
        if operation.job:
            job = device.jobs.setdefault(operation.job, Job(operation.job))
            job.accesses.append((index, operation))
            return self._effect(index, operation, OK)
        job = Job(0)
        job.accesses.append((index, operation))
        self.host.tasks.task.forget()
        if errno_of(device.driver.submit(job)):
            return device.denied(index, operation)
        self._launch(device, job)
        outcome = device.access(index, operation)
        job.outcomes.append(outcome)
        device.complete(job)
        device.driver.retire(job)
        return outcome

    def _submit(self, index: int, operation: Operation) -> Outcome:
        device = self._device(operation)
        job = device.jobs[operation.job]
        self.host.record(What.SUBMIT, device.number, job.number)
        self.host.tasks.task.forget()
        answer = device.driver.submit(job)
        job.submitted = True
        if answer:
            job.outcomes = [FAULT] * len(job.accesses)
            job.done = True
            device.await_death()
            return self._found(index, operation, answer)
        self._launch(device, job)
        work = Work(index, partial(device.run_job, job))
        self.host.tasks.add(ENGINE + device.number, work)
        return self._effect(index, operation, OK)

    def _launch(self, device: Device, job: Job) -> None:
        self.host.record(What.LAUNCH, device.number, job.number, *job.keys)

    def _wait(self, index: int, operation: Operation) -> Outcome:
        device = self._device(operation)
        job = device.jobs[operation.job]
        self._await(device, job)
        # Its outcomes are told whole: let it be clear first whether the process is gone.
        device.await_death()
        return self._effect(index, operation, Outcome(Status.OK, data=encode_wait(job.outcomes)))

    def _await(self, device: Device, job: Job) -> None:
        self.host.locks.block(None, lambda: job.done, f"job {job.number}")
        device.driver.retire(job)
        del device.jobs[job.number]

    def _fault(self, index: int, operation: Operation) -> Outcome:
        driver, host = self._device(operation).driver, self.host
        write = bool(operation.flags & Flag.WRITE)
        for slot in range(operation.page, operation.page + operation.pages):
            part = operation._replace(page=slot, pages=1)
            host.tasks.task.forget()
            outcome = self._found(index, part, driver.fault(host.address(slot), write))
            if outcome is not OK:
                return outcome
        return OK

    def _to_device(self, index: int, operation: Operation) -> Outcome:
        return self._moved(index, operation, self._device(operation).driver.migrate_to_device)

    def _to_system(self, index: int, operation: Operation) -> Outcome:
        return self._moved(index, operation, self._device(operation).driver.migrate_to_system)

    def _exclusive(self, index: int, operation: Operation) -> Outcome:
        return self._moved(index, operation, self._device(operation).driver.make_exclusive)

    def _moved(
        self, index: int, operation: Operation, move: Callable[[int, int], object]
    ) -> Outcome:
        """A best effort: how many pages it came to is what the driver answers."""
        device = self._device(operation)
        before = device.moved
        start = self.host.address(operation.page)
        answer = move(start, self.host.address(operation.page + operation.pages))
        if not isinstance(answer, int):
            raise Broken("R4", f"the driver answered {answer!r}, which is no number")
        moved = device.moved - before
        if operation.kind != Kind.EXCLUSIVE and answer > moved:
            raise Broken("R4", f"the driver answered {answer}, but {moved} pages have moved")
        outcome = OK if answer > 0 else skipped(-answer or errno.EBUSY)
        return self._effect(index, operation, outcome)

    def _register(self, index: int, operation: Operation) -> Outcome:
        host = self.host
        host.tasks.task.forget()
        start = host.address(operation.page)
        end = host.address(operation.page + operation.pages)
        write = bool(operation.flags & Flag.WRITE)
        device, first, last = self._device(operation), host.slot(start), host.slot(end)
        space = -1 if device.mm is None else device.mm.number
        host.record(What.REGISTER, device.number, operation.key, space, first, last)
        answer = device.driver.register(operation.key, start, end, write)
        return self._found(index, operation, answer)

    def _unregister(self, index: int, operation: Operation) -> Outcome:
        device = self._device(operation)
        self.host.record(What.UNREGISTER, device.number, operation.key)
        answer = device.driver.unregister(operation.key)
        return self._answer(index, operation, answer)


def _handler(kind: Kind) -> Callable[[_Execution], Handler]:
    """What gives an execution's handler of a kind of operation."""
    name = kind.name.lower()
    if kind in CPU_ACCESSES:
        return attrgetter("_cpu_access")
    if kind in DEVICE_ACCESSES:
        return attrgetter("_device_access")
    if kind in _CALLS:
        return attrgetter(f"_calls.{name}")
    if kind in EVENTS or kind == Kind.INVALIDATE:
        return attrgetter(f"_events.{name}")
    return attrgetter(f"_{name}")


_HANDLERS = {int(kind): _handler(kind) for kind in HOSTED}


def _dependencies(operations: tuple[Operation, ...]) -> list[tuple[int, ...]]:
    """For each operation those of other actors that have to be over before it may begin."""
    born: dict[int, int] = {}
    attached: dict[int, list[int]] = {}
    needs: list[tuple[int, ...]] = []
    for index, operation in enumerate(operations):
        mine: list[int] = []
        if operation.process in born:
            mine.append(born[operation.process])
        if operation.kind == _EXIT:
            mine += attached.get(operation.process, [])
        needs.append(tuple(mine))
        if operation.kind == _FORK:
            born[operation.target] = index
        elif operation.kind == _ATTACH:
            attached.setdefault(operation.process, []).append(index)
    return needs


def _raised(error: Exception) -> str:
    text = " ".join(str(error).split())
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "somewhere"
    return f"the driver raised {type(error).__name__}: {text} ({where})"
