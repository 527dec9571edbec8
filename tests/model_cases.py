"""Programs small enough to judge by eye, each with the rule that its last line breaks, or None.

Behind `=>` stands the outcome: `fault` (with the words done), an errno such as `ENOMEM`, `skipped`,
or the words read; for a `wait` those of the job's accesses.  Without one the operation succeeds.
"""

from __future__ import annotations

__all__ = ["FAULTING", "MAP", "W", "X", "read", "write"]

W = 0x100000
X = 0x200000


def read(page: int = 0, offset: int = 0, length: int = 8, who: str = "read p0") -> str:
    return f"{who} page={page} offset={offset} length={length}"


def write(
    page: int = 0, value: int = W, length: int = 8, offset: int = 0, who: str = "write p0"
) -> str:
    return f"{who} page={page} offset={offset} length={length} value={value:#x}"


MAP = "map p0 rw page=0 pages=1"
FILE = "map p0 rw shared page=0 pages=1 file=0"
PRIVATE_FILE = "map p0 rw page=0 pages=1 file=0"

# name: (lines, the rule that the last line breaks, or None)
FAULTING = {
    "unmapped memory faults": ([f"{read()} => fault"], None),
    "reading unmapped memory": ([f"{read()} => 0"], "A1"),
    "fresh memory is zero": ([MAP, f"{read()} => 0"], None),
    "fresh memory is not poisoned": ([MAP, f"{read()} => 7"], "A4"),
    "mapped memory does not fault": ([MAP, f"{read()} => fault"], "A2"),
    "the last write": ([MAP, write(), f"{read()} => {W}"], None),
    "a lost write": ([MAP, write(), f"{read()} => 0"], "C1"),
    "an older write": ([MAP, write(), write(value=X), f"{read()} => {W}"], "C1"),
    "a neighbour": ([MAP, write(), f"{read(offset=8)} => {W + 1}"], "A4"),
    "words count up": ([MAP, write(length=16), f"{read(length=16)} => {W} {W + 1}"], None),
    "straddling": (
        ["map p0 rw page=0 pages=2", write(0, W, 16, 4088), f"{read(1)} => {W + 1}"],
        None,
    ),
    "a straddling read stops at a hole": ([MAP, f"{read(0, 4088, 16)} => fault 0"], None),
    "a fault before the hole": ([MAP, f"{read(0, 4080, 24)} => fault 0"], None),
    "a straddling write stops at a hole": (
        [MAP, f"{write(0, W, 16, 4088)} => fault 0", f"{read(0, 4088)} => {W}"],
        None,
    ),
    "mapping over is fresh": ([MAP, write(), MAP, f"{read()} => 0"], None),
    "mapping over keeps nothing": ([MAP, write(), MAP, f"{read()} => {W}"], "C1"),
    "read-only": (["map p0 r page=0 pages=1", f"{write()} => fault"], None),
    "read-only is not written": (["map p0 r page=0 pages=1", write()], "A1"),
    "protect a hole": (["protect p0 r page=0 pages=1 => ENOMEM"], None),
    "protect a hole succeeds": (["protect p0 r page=0 pages=1"], "A6"),
    "a failed protect may have done its prefix": (
        [MAP, "protect p0 r page=0 pages=2 => ENOMEM", f"{write()} => fault", write()],
        None,
    ),
    "a failed protect does nothing behind the hole": (
        [
            "map p0 rw page=2 pages=1",
            MAP,
            "protect p0 r page=0 pages=3 => ENOMEM",
            f"{write(2)} => fault",
        ],
        "A2",
    ),
    "a move": (
        [MAP, write(), "remap p0 page=0 pages=1 to=3", f"{read()} => fault", f"{read(3)} => {W}"],
        None,
    ),
    "a move leaves nothing behind": (
        [MAP, write(), "remap p0 page=0 pages=1 to=3", f"{read()} => {W}"],
        "A1",
    ),
    "dontunmap leaves zeros": (
        [MAP, write(), "remap p0 page=0 pages=1 to=3 dontunmap", f"{read()} => 0"],
        None,
    ),
    "an overlapping move fails": (
        [MAP, "remap p0 page=0 pages=1 to=0 => EINVAL", f"{read()} => 0"],
        None,
    ),
    "a plain move must not fail": ([MAP, "remap p0 page=0 pages=1 to=3 => EFAULT"], "A6"),
    "a move over a split area may fail": (
        [
            "map p0 rw page=0 pages=2",
            "protect p0 r page=0 pages=1",
            "protect p0 rw page=0 pages=1",
            "remap p0 page=0 pages=2 to=3 => EFAULT",
        ],
        None,
    ),
    "discard zeroes": ([MAP, write(), "discard p0 page=0 pages=1", f"{read()} => 0"], None),
    "discard zeroes all": ([MAP, write(), "discard p0 page=0 pages=1", f"{read()} => {W}"], "C1"),
    "discard of shared memory keeps it": (
        [FILE, write(), "discard p0 page=0 pages=1", f"{read()} => {W}"],
        None,
    ),
    "a lazy free keeps": ([MAP, write(), "free p0 page=0 pages=1", f"{read()} => {W}"], None),
    "a lazy free drops": ([MAP, write(), "free p0 page=0 pages=1", f"{read()} => 0"], None),
    "what was dropped does not come back": (
        [MAP, write(), "free p0 page=0 pages=1", f"{read()} => 0", f"{read()} => {W}"],
        "C1",
    ),
    "a lazy free may drop after a read": (
        [MAP, write(), "free p0 page=0 pages=1", f"{read()} => {W}", f"{read()} => 0"],
        None,
    ),
    "a write ends the lazy free": (
        [MAP, "free p0 page=0 pages=1", write(), f"{read()} => 0"],
        "C1",
    ),
    "a zero in a lazily freed page says nothing of the others": (
        [MAP, write(), "free p0 page=0 pages=1", f"{read(offset=8)} => 0", f"{read()} => {W}"],
        None,
    ),
    "a job's write may come after the drop": (
        [
            MAP,
            "attach d0 p0",
            write(),
            f"{write(offset=8, value=X, who='dwrite d0')} job=1",
            "free p0 page=0 pages=1",
            "submit d0 job=1",
            f"{read(length=16)} => 0 {X}",
        ],
        None,
    ),
    "punch zeroes the file": ([FILE, write(), "punch p0 page=0 pages=1", f"{read()} => 0"], None),
    "punch of private memory": ([MAP, "punch p0 page=0 pages=1"], "A6"),
    "truncate": ([FILE, write(), "truncate p0 file=0 pages=0", f"{read()} => fault"], None),
    "truncate and grow": (
        [
            FILE,
            write(),
            "truncate p0 file=0 pages=0",
            "truncate p0 file=0 pages=8",
            f"{read()} => 0",
        ],
        None,
    ),
    "truncate takes private copies too": (
        [
            PRIVATE_FILE,
            write(),
            "truncate p0 file=0 pages=0",
            "truncate p0 file=0 pages=8",
            f"{read()} => {W}",
        ],
        "C1",
    ),
    "a private file page reads through": (
        [PRIVATE_FILE, "map p0 rw shared page=1 pages=1 file=0", write(1), f"{read()} => {W}"],
        None,
    ),
    "a private copy does not": (
        [
            PRIVATE_FILE,
            "map p0 rw shared page=1 pages=1 file=0",
            write(),
            write(1, X),
            f"{read()} => {W}",
        ],
        None,
    ),
    "a failed compare-exchange may or may not copy": (
        [
            PRIVATE_FILE,
            "map p0 rw shared page=1 pages=1 file=0",
            "cas p0 page=0 offset=0 length=8 expected=0x1 value=0x2 => 0",
            write(1, X),
            f"{read()} => 0",
        ],
        None,
    ),
    "a device that reads a private file page may copy it": (
        [
            PRIVATE_FILE,
            "map p0 rw shared page=1 pages=1 file=0",
            "attach d0 p0",
            f"{read(who='dread d0')} => 0",
            write(1, X),
            f"{read()} => 0",
        ],
        None,
    ),
    "compare-exchange": (
        [
            MAP,
            f"cas p0 page=0 offset=0 length=8 expected=0x0 value={W:#x} => 0",
            f"{read()} => {W}",
        ],
        None,
    ),
    "atomic add": (
        [MAP, write(), f"add p0 page=0 offset=0 length=8 value=0x5 => {W}", f"{read()} => {W + 5}"],
        None,
    ),
    "an atomic add that reads stale": (
        [MAP, write(), "add p0 page=0 offset=0 length=8 value=0x5 => 0"],
        "C1",
    ),
    "fork copies": (
        [MAP, write(), "fork p0 child=p1", write(0, X), f"{read(who='read p1')} => {W}"],
        None,
    ),
    "fork does not share": (
        [MAP, write(), "fork p0 child=p1", write(0, X), f"{read(who='read p1')} => {X}"],
        "A4",
    ),
    "fork shares shared memory": (
        [
            "map p0 rw shared page=0 pages=1",
            "fork p0 child=p1",
            write(),
            f"{read(who='read p1')} => {W}",
        ],
        None,
    ),
    "reclaim keeps": ([MAP, write(), "reclaim p0 page=0 pages=1", f"{read()} => 0"], "C1"),
    "device sees the CPU": ([MAP, "attach d0 p0", write(), f"{read(who='dread d0')} => {W}"], None),
    "CPU sees the device": (
        [MAP, "attach d0 p0", write(who="dwrite d0"), f"{read()} => 0"],
        "C1",
    ),
    "device write through a read-only mapping": (
        ["map p0 r page=0 pages=1", "attach d0 p0", write(who="dwrite d0")],
        "H3",
    ),
    "device write after protect": (
        [
            MAP,
            "attach d0 p0",
            write(who="dwrite d0"),
            "protect p0 r page=0 pages=1",
            write(who="dwrite d0"),
        ],
        "I12",
    ),
    "stale after unmap and map": (
        [
            MAP,
            "attach d0 p0",
            write(who="dwrite d0"),
            "unmap p0 page=0 pages=1",
            MAP,
            f"{read(who='dread d0')} => {W}",
        ],
        "I12",
    ),
    "device of a process that is gone": (
        [MAP, "attach d0 p0", "exit p0", f"{read(who='dread d0')} => ESRCH"],
        None,
    ),
    "device outlives its process": (
        [MAP, "attach d0 p0", "exit p0", f"{read(who='dread d0')} => 0"],
        "L2",
    ),
    "a hole migrates as zero": (
        [MAP, "attach d0 p0", "to_device d0 page=0 pages=1", f"{read(who='dread d0')} => 7"],
        "G4",
    ),
    "a copy is complete": (
        [
            MAP,
            "attach d0 p0",
            write(),
            "to_device d0 page=0 pages=1",
            f"{read(who='dread d0')} => 0",
        ],
        "G7",
    ),
    "the CPU brings a page home": (
        [
            MAP,
            "attach d0 p0",
            "to_device d0 page=0 pages=1",
            write(who="dwrite d0"),
            f"{read()} => 0",
        ],
        "G9",
    ),
    "another device's page": (
        [
            MAP,
            "attach d0 p0",
            "attach d1 p0",
            "to_device d0 page=0 pages=1",
            f"{read(who='dread d1')} => fault",
        ],
        "H7",
    ),
    "a blockable invalidation is not refused": (
        ["invalidate p0 page=0 pages=1 event=clear => EAGAIN"],
        "B3",
    ),
    "a non-blockable one may be": (
        ["invalidate p0 page=0 pages=1 event=clear nonblock => EAGAIN"],
        None,
    ),
    "an unmap is not refused": ([MAP, "unmap p0 page=0 pages=1 => EAGAIN"], "B3"),
    "fault in": ([MAP, "attach d0 p0", "fault d0 rw page=0 pages=1"], None),
    "fault in a hole": ([MAP, "attach d0 p0", "fault d0 rw page=0 pages=2"], "H3"),
    "fault in refused": ([MAP, "attach d0 p0", "fault d0 r page=0 pages=1 => EFAULT"], "A2"),
    "a job": (
        [
            MAP,
            "attach d0 p0",
            f"{write(who='dwrite d0')} job=1",
            f"{read(who='dread d0')} job=1",
            "submit d0 job=1",
            f"wait d0 job=1 => done; {W}",
            f"{read()} => {W}",
        ],
        None,
    ),
    "a job's write is lost": (
        [
            MAP,
            "attach d0 p0",
            f"{write(who='dwrite d0')} job=1",
            "submit d0 job=1",
            f"{read()} => 0",
            "wait d0 job=1 => done",
            f"{read()} => 0",
        ],
        "C1",
    ),
    "a job may come before or after a write": (
        [
            MAP,
            "attach d0 p0",
            f"{write(who='dwrite d0')} job=1",
            "submit d0 job=1",
            write(0, X),
            "wait d0 job=1 => done",
            f"{read()} => {W}",
        ],
        None,
    ),
    "but not both": (
        [
            MAP,
            "attach d0 p0",
            f"{write(who='dwrite d0')} job=1",
            "submit d0 job=1",
            write(0, X),
            "wait d0 job=1 => done",
            f"{read()} => {W}",
            f"{read()} => {X}",
        ],
        "C1",
    ),
    "a write of the same value while a job is in flight": (
        [
            MAP,
            write(),
            "attach d0 p0",
            f"{write(who='dwrite d0', value=X)} job=1",
            "submit d0 job=1",
            write(),
            "wait d0 job=1 => done",
            f"{read()} => {W}",
        ],
        None,
    ),
    "a job that met an unmap saw what was there": (
        [
            MAP,
            write(),
            "attach d0 p0",
            f"{read(who='dread d0')} job=1",
            "submit d0 job=1",
            "unmap p0 page=0 pages=1",
            f"wait d0 job=1 => {W}",
        ],
        None,
    ),
    "a job that met an unmap faulted": (
        [
            MAP,
            "attach d0 p0",
            f"{read(who='dread d0')} job=1",
            "submit d0 job=1",
            "unmap p0 page=0 pages=1",
            "wait d0 job=1 => fault",
        ],
        None,
    ),
    "a job that met an unmap saw something else": (
        [
            MAP,
            write(),
            "attach d0 p0",
            f"{read(who='dread d0')} job=1",
            "submit d0 job=1",
            "unmap p0 page=0 pages=1",
            "wait d0 job=1 => 7",
        ],
        "C3",
    ),
    "a job of a private file page copies it": (
        [
            PRIVATE_FILE,
            "map p0 rw shared page=1 pages=1 file=0",
            "attach d0 p0",
            f"{write(who='dwrite d0')} job=1",
            "submit d0 job=1",
            "wait d0 job=1 => done",
            write(1, X),
            f"{read()} => {W}",
            f"{read(1)} => {X}",
        ],
        None,
    ),
}
