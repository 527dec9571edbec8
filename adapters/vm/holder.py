"""What holds the candidate in a machine: QEMU, its kernel's log, and the driver in it."""

from __future__ import annotations

import contextlib
import hashlib
import time

import msgspec

from reference.description import Description

from ..candidate import CandidateError
from ..holder import Holder
from ..wire import ComplaintError
from .driver import module_of
from .machine import Machine
from .places import current
from .spec import MachineSpec, spec_of
from .start import Start
from .tools import install_command, lacking, unsuited

__all__ = ["MachineHolder", "Machines", "lacks"]


def lacks(flavour: str = "lean") -> str | None:
    """Why the machine cannot run here yet, with what to do about it; None if it can."""
    problem = unsuited()
    if problem:
        return problem
    packages = lacking(to_build=False)
    if packages:
        return f"needs {', '.join(packages)}: {install_command(packages)}"
    try:
        current(flavour)
    except CandidateError as error:
        return str(error)
    return None


class Machines:
    """Machines for a candidate, each in the place of the one before.

    A candidate that has broken its machine does so again: from the second one on, the next is
    restored already while one is at work.
    """

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._started = False
        self._spare: Machine | None = None

    def start(self, seconds: float) -> MachineHolder:
        """One that is there within some seconds; `CandidateError`."""
        spare, self._spare = self._spare, None
        try:
            holder = MachineHolder(self._spec, seconds, spare)
        except BaseException:
            if spare is not None:
                spare.end()
            raise
        try:
            if self._started:
                # If there cannot be two, one has to do.
                with contextlib.suppress(CandidateError, OSError):
                    self._spare = holder.another()
        except BaseException:
            holder.end()
            raise
        self._started = True
        return holder

    def close(self) -> None:
        """End what nobody needs any more."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()


class MachineHolder(Holder):
    """A machine that was started for a candidate, within some seconds; `CandidateError`.

    It is the `spare` one, if that was started for the same purpose.
    """

    parting = 0.0

    def __init__(self, text: str, seconds: float, spare: Machine | None = None) -> None:
        spec = MachineSpec.parse(text)
        problem = lacks(spec.flavour)
        if problem:
            raise CandidateError(f"{text}: {problem}")
        with contextlib.ExitStack() as undo:
            self._kernel = current(spec.flavour)
            undo.enter_context(self._kernel.used())
            self._spec = spec
            module = module_of(spec, self._kernel)
            self._driver = module.read_bytes() if module else None
            self._start = Start.of(self._kernel, spec)
            self._machine = undo.enter_context(self._start.machine(seconds, spare))
            if self._driver is not None:
                self._swap(self._driver, time.monotonic() + seconds)
            super().__init__(self._machine.child)
            self._begun = 0
            self._parts = undo.pop_all()

    def _swap(self, module: bytes, deadline: float) -> None:
        """Put a driver in the place of the kernel's own; `CandidateError` if that fails."""
        try:
            answer = self._machine.ask(f"swap-module {len(module)}", deadline, module)
        except CandidateError as error:
            answer = str(error)
        if answer != "ok":
            log = self._machine.log.tail()
            raise CandidateError(f"{self._spec.text}: the kernel does not take it: {answer}\n{log}")

    def another(self) -> Machine:
        """One more of the same kind, which is not waited for; `CandidateError`, `OSError`."""
        return self._start.spare()

    def amend(self, description: Description) -> Description:
        """Say exactly which kernel and driver they are."""
        record = self._kernel.record
        words = [record.version, f"{record.flavour} machine {self._kernel.name}"]
        if self._driver is not None:
            words.append(f"driver {hashlib.sha256(self._driver).hexdigest()[:16]}")
        return msgspec.structs.replace(
            description, name=spec_of(self._spec.mirror), version=", ".join(words)
        )

    def begin(self, *, alone: bool) -> None:
        super().begin(alone=alone)
        self._begun += 1

    def look(self) -> None:
        super().look()
        self._machine.log.look()

    def settle(self, program: int) -> None:
        complaint = self._complaint(program)
        if complaint:
            raise ComplaintError(complaint.partition("\n")[0])

    def tell(self, problem: str, program: int) -> str:
        title, _, report = self._complaint(program).partition("\n")
        if title:
            problem = title if title == problem else f"{title} ({problem})"
        text = report if title else self._machine.log.tail_of(program)
        told = super().tell(problem, program)
        return told + (f"\nthe kernel's log:\n{text}" if text else "")

    def _complaint(self, program: int) -> str:
        """What the kernel complained of, unless that was in a program that was sent behind."""
        log = self._machine.log
        complaint = log.look()
        return "" if complaint is None or program < log.owner <= self._begun else complaint

    def end(self) -> None:
        self._parts.close()
