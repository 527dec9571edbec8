"""Starting machines: booted once, and from then on restored to the state that was saved then."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..candidate import CandidateError
from .initramfs import initramfs
from .machine import Boot, Machine
from .mirrors import MIRRORS
from .places import Kernel, remove_older
from .spec import MachineSpec
from .tools import QEMU

__all__ = ["Start", "boot_once"]

_BOOT_SECONDS = 120.0
"""For the boot whose state is saved, which happens only once."""
_BOOTS = 5
_UNSTEADY = "APIC timer disabled"


@dataclass(frozen=True)
class Start:
    """How the machines of a spec are started, from one saved state."""

    kernel: Kernel
    mirror: str
    boot: Boot

    @classmethod
    def of(cls, kernel: Kernel, spec: MachineSpec) -> Self:
        """`CandidateError` if the agent cannot be made."""
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
        return cls(kernel, spec.mirror, boot)

    def machine(self, seconds: float, spare: Machine | None = None) -> Machine:
        """A machine whose agent waits for its client, within some seconds; `CandidateError`.

        That is the `spare` one, which is taken over, if it is of this kind and in order.
        """
        if spare is not None:
            with contextlib.suppress(CandidateError):
                if spare.boot == self.boot:
                    return _ready(spare, time.monotonic() + seconds)
            spare.end()
        state, fresh = self._saved()
        try:
            return _ready(Machine(self.boot, state), time.monotonic() + seconds)
        except CandidateError:
            if fresh:
                raise
        # What was saved long ago may have come to harm.
        state.unlink(missing_ok=True)
        state, _ = self._saved()
        return _ready(Machine(self.boot, state), time.monotonic() + seconds)

    def spare(self) -> Machine:
        """A machine that is not waited for; `CandidateError`, `OSError`."""
        return Machine(self.boot, self._saved()[0])

    def _saved(self) -> tuple[Path, bool]:
        """The state of the machine when it has just booted, and whether it was saved only now."""
        name = self.boot.name(Path(shutil.which(QEMU) or QEMU))
        path = self.kernel.folder / "states" / f"{self.mirror}-{name}"
        if path.exists():
            return path, False
        path.parent.mkdir(exist_ok=True)
        with self.kernel.changed():
            if path.exists():  # somebody else has saved it while we waited
                return path, False
            part = path.with_suffix(".part")
            with _booted(self.boot, time.monotonic() + _BOOT_SECONDS) as machine:
                machine.save(part)
            part.rename(path)
        # Those with an agent that was.
        remove_older(path.parent, self.boot.initramfs, f"{self.mirror}-*")
        return path, True


def boot_once(kernel: Kernel) -> None:
    """See that a kernel comes up, and have its state saved; `CandidateError`."""
    spec = MachineSpec.parse(f"linux:hmm,flavour={kernel.record.flavour}")
    with Start.of(kernel, spec).machine(_BOOT_SECONDS):
        pass


def _booted(boot: Boot, deadline: float) -> Machine:
    """A machine that has booted and keeps time well, if one of a few does.

    While it boots a kernel measures its timers, and gives up one that does not look right because
    the host is busy.
    """
    for attempt in range(_BOOTS):
        machine = _ready(Machine(boot), deadline)
        if _UNSTEADY not in machine.log.tail() or attempt == _BOOTS - 1:
            return machine
        machine.end()
    raise AssertionError("the last one is taken as it is")


def _ready(machine: Machine, deadline: float) -> Machine:
    """The machine, once its agent waits for its client; else it is ended: `CandidateError`."""
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
