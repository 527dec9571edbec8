"""What holds the candidate in a machine: QEMU, its kernel's log, and the driver in it."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from pathlib import Path

import msgspec

from reference.description import Description

from ..candidate import CandidateError
from ..holder import Holder
from ..wire import ComplaintError
from .driver import module_of
from .initramfs import initramfs
from .machine import Boot, Machine
from .mirrors import MIRRORS
from .places import Kernel, current, remove_older
from .spec import MachineSpec, spec_of
from .tools import QEMU, install_command, lacking, unsuited

__all__ = ["MachineHolder", "boot_once", "lacks"]

_BOOT_SECONDS = 120.0
"""For the boot whose state is saved, which happens only once."""
_BOOTS = 5
_UNSTEADY = "APIC timer disabled"


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


class MachineHolder(Holder):
    """A machine that was started for a candidate, within some seconds; `CandidateError`."""

    parting = 0.0

    def __init__(self, text: str, seconds: float) -> None:
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
            self._machine = undo.enter_context(_started(self._kernel, spec, seconds))
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


def boot_once(kernel: Kernel) -> None:
    """See that a kernel comes up, and have its state saved; `CandidateError`."""
    spec = MachineSpec.parse(f"linux:hmm,flavour={kernel.record.flavour}")
    with _started(kernel, spec, _BOOT_SECONDS):
        pass


def _started(kernel: Kernel, spec: MachineSpec, seconds: float) -> Machine:
    """A machine that goes on from the state that it had when it had booted."""
    mirror = MIRRORS[spec.mirror]
    boot = Boot(
        kernel.image,
        initramfs(kernel, spec.mirror),
        mirror.module_names,
        mirror.processor,
        spec.cpus,
        spec.nodes,
        spec.merge,
    )
    state, fresh = _saved(kernel, spec, boot)
    try:
        return _ready(boot, time.monotonic() + seconds, state)
    except CandidateError:
        if fresh:
            raise
    # What was saved long ago may have come to harm.
    state.unlink(missing_ok=True)
    state, _ = _saved(kernel, spec, boot)
    return _ready(boot, time.monotonic() + seconds, state)


def _saved(kernel: Kernel, spec: MachineSpec, boot: Boot) -> tuple[Path, bool]:
    """The state of the machine when it has just booted, and whether it was saved only now."""
    name = boot.name(Path(shutil.which(QEMU) or QEMU))
    path = kernel.folder / "states" / f"{spec.mirror}-{name}"
    if path.exists():
        return path, False
    path.parent.mkdir(exist_ok=True)
    with kernel.changed():
        if path.exists():  # somebody else has saved it while we waited
            return path, False
        part = path.with_suffix(".part")
        with _booted(boot, time.monotonic() + _BOOT_SECONDS) as machine:
            machine.save(part)
        part.rename(path)
    # Those with an agent that was.
    remove_older(path.parent, boot.initramfs, f"{spec.mirror}-*")
    return path, True


def _booted(boot: Boot, deadline: float) -> Machine:
    """A machine that has booted and keeps time well, if one of a few does.

    While it boots a kernel measures its timers, and gives up one that does not look right because
    the host is busy.
    """
    for attempt in range(_BOOTS):
        machine = _ready(boot, deadline)
        if _UNSTEADY not in machine.log.tail() or attempt == _BOOTS - 1:
            return machine
        machine.end()
    raise AssertionError("the last one is taken as it is")


def _ready(boot: Boot, deadline: float, state: Path | None = None) -> Machine:
    """A machine whose agent waits for its client; `CandidateError`."""
    machine = Machine(boot, state)
    try:
        _await_ready(machine, deadline)
    except BaseException:
        machine.end()
        raise
    return machine


def _await_ready(machine: Machine, deadline: float) -> None:
    """Wait for the agent; `CandidateError` with the end of the kernel's log."""
    try:
        answer = machine.ask("ready?", deadline)
    except CandidateError as error:
        answer = str(error)
    complaint = machine.log.look()
    if complaint is not None:
        raise CandidateError(f"the kernel complains when it boots: {complaint}")
    if answer != "ready":
        last = "\n".join([machine.child.output.tail(), machine.log.tail()[-2000:]]).strip()
        raise CandidateError(f"the machine does not come up: {answer}\n{last}")
