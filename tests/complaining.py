"""Candidates for a machine that is no machine: what the kernel says while they work."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from fake_qemu import say
from misbehaving import Misbehaving

from reference.geometry import Geometry
from reference.outcomes import Outcome

WARNING = """\
[    7.250000] ------------[ cut here ]------------
[    7.250001] WARNING: CPU: 0 PID: 42 at lib/test_hmm.c:123 dmirror_fops_release+0x5/0x9\r
[    7.250002] Modules linked in: test_hmm
[    7.250002] CPU: 0 UID: 0 PID: 42 Comm: init
[    7.250002] RAX: 0000000000000000 RBX: 0000000000000000
[    7.250003] ---[ end trace 0000000000000000 ]---
[    7.250004] and life goes on
"""
OOPS = """\
BUG: kernel NULL pointer dereference, address: 0000000000000008
#PF: supervisor read access in kernel mode
Oops: Oops: 0000 [#1] SMP
"""


class Complains(Misbehaving):
    """Its answers are right, but its kernel warns."""

    def worst(self, outcomes: list[Outcome]) -> list[Outcome]:
        say(WARNING)
        return outcomes


class Oopses(Misbehaving):
    """Its kernel dies, and QEMU ends."""

    def worst(self, outcomes: list[Outcome]) -> list[Outcome]:
        say(OOPS)
        qemu = int(Path(os.environ["FAKE_LOG"]).parts[2])
        os.kill(qemu, signal.SIGKILL)
        signal.pause()
        return outcomes


class Floods(Misbehaving):
    """Its kernel prints megabytes, none of them a complaint, and warns in between."""

    def worst(self, outcomes: list[Outcome]) -> list[Outcome]:
        say("all is well\n" * (1 << 18))
        say(WARNING)
        say("all is well\n" * (1 << 18))
        return outcomes


class Marks(Complains):
    """It marks where programs begin, as the agent does, and tells a pipe that it has complained."""

    programs = 0

    def reset(self, geometry: Geometry) -> None:
        self.programs += 1
        say(f"[    7.000000] lastwriter: program {self.programs}\n")
        super().reset(geometry)

    def worst(self, outcomes: list[Outcome]) -> list[Outcome]:
        super().worst(outcomes)
        Path(os.environ["FAKE_PIPE"]).write_text("complained", "utf-8")
        return outcomes


class Forges(Complains):
    """It says that it is another program, which is still to come."""

    def worst(self, outcomes: list[Outcome]) -> list[Outcome]:
        say("lastwriter: program 99\n")
        return super().worst(outcomes)
