"""Programs with registrations, in the form of `model_cases`."""

from __future__ import annotations

from model_cases import FILE, MAP, PRIVATE_FILE, W, X, read, write

__all__ = ["REFCOUNTING", "REGISTRATION"]

REGISTER = "register d0 key=1 rw page=0 pages=1"
KEYED_READ = read(who="dread d0") + " key=1"
KEYED_WRITE = write(who="dwrite d0") + " key=1"
SHARED_TWICE = [FILE, "map p0 rw shared page=1 pages=1 file=0", "attach d0 p0", REGISTER]

REGISTRATION = {
    "through a key": ([MAP, "attach d0 p0", REGISTER, KEYED_WRITE, f"{read()} => {W}"], None),
    "a lost write": ([MAP, "attach d0 p0", REGISTER, KEYED_WRITE, f"{read()} => 0"], "C1"),
    "no key": ([MAP, "attach d0 p0", f"{read(who='dread d0')} => 0"], "A1"),
    "a dead key": (
        [MAP, "attach d0 p0", REGISTER, "unregister d0 key=1", f"{KEYED_READ} => 0"],
        "A1",
    ),
    "outside": (
        [
            "map p0 rw page=0 pages=2",
            "attach d0 p0",
            REGISTER,
            f"{read(1, who='dread d0')} key=1 => 0",
        ],
        "A1",
    ),
    "through a read-only registration": (
        [MAP, "attach d0 p0", "register d0 key=1 r page=0 pages=1", KEYED_WRITE],
        "A1",
    ),
    "a range with a hole": ([MAP, "attach d0 p0", "register d0 key=1 rw page=0 pages=2"], "A1"),
    "overtaken: the old frame": (
        [MAP, write(), "attach d0 p0", REGISTER, MAP, write(0, X), f"{KEYED_READ} => {W}"],
        None,
    ),
    "overtaken: the new mapping": (
        [MAP, write(), "attach d0 p0", REGISTER, MAP, write(0, X), f"{KEYED_READ} => {X}"],
        None,
    ),
    "overtaken: neither": (
        [MAP, write(), "attach d0 p0", REGISTER, MAP, write(0, X), f"{KEYED_READ} => 7"],
        "P2",
    ),
    "overtaken: a write may show": (
        [MAP, "attach d0 p0", REGISTER, MAP, KEYED_WRITE, f"{read()} => {W}", f"{read()} => {W}"],
        None,
    ),
    "overtaken: a write touches no neighbour": (
        [
            "map p0 rw page=0 pages=2",
            "attach d0 p0",
            REGISTER,
            MAP,
            KEYED_WRITE,
            f"{read(1)} => {W}",
        ],
        "A4",
    ),
    "overtaken by a copy of the file: a write to the old frame": (
        [*SHARED_TWICE, PRIVATE_FILE, KEYED_WRITE, f"{read(1)} => {W}"],
        None,
    ),
    "overtaken by a copy of the file: a write to the copy": (
        [*SHARED_TWICE, PRIVATE_FILE, KEYED_WRITE, f"{read(1)} => 0"],
        None,
    ),
    **{
        f"overtaken by a copy of the file: a job, {seen:#x} seen": (
            [
                *[*SHARED_TWICE, PRIVATE_FILE, f"{KEYED_WRITE} job=1"],
                *["submit d0 job=1", "wait d0 job=1 => done", f"{read(1)} => {seen}"],
            ],
            rule,
        )
        for seen, rule in ((W, None), (0, None), (X, "A4"))
    },
    "overtaken by a copy of the file: neither": (
        [*SHARED_TWICE, PRIVATE_FILE, KEYED_WRITE, f"{read(1)} => {X}"],
        "A4",
    ),
    "not overtaken: a write shows where the file is shared": (
        [*SHARED_TWICE, KEYED_WRITE, f"{read(1)} => 0"],
        "C1",
    ),
    "protection does not matter to a pin": (
        [
            MAP,
            "attach d0 p0",
            REGISTER,
            "protect p0 r page=0 pages=1",
            KEYED_WRITE,
            f"{read()} => 0",
        ],
        "C1",
    ),
    "fork keeps the parent's pages": (
        [MAP, "attach d0 p0", REGISTER, "fork p0 child=p1", write(), f"{KEYED_READ} => 0"],
        "L7",
    ),
    "a moved page is still the pinned one": (
        [
            MAP,
            "attach d0 p0",
            REGISTER,
            "remap p0 page=0 pages=1 to=3",
            KEYED_WRITE,
            f"{read(3)} => {W}",
        ],
        None,
    ),
}

REFCOUNTING = {
    "revalidated": ([MAP, "attach d0 p0", REGISTER, MAP, write(), f"{KEYED_READ} => {W}"], None),
    "not revalidated": (
        [
            MAP,
            write(),
            "attach d0 p0",
            REGISTER,
            f"{KEYED_READ} => {W}",
            MAP,
            f"{KEYED_READ} => {W}",
        ],
        "I12",
    ),
    "a hole elsewhere in the buffer may be refused": (
        [
            "map p0 rw page=0 pages=2",
            "attach d0 p0",
            "register d0 key=1 rw page=0 pages=2",
            "unmap p0 page=1 pages=1",
            f"{KEYED_READ} => fault",
        ],
        None,
    ),
    "unmap waits for the job": (
        [
            MAP,
            write(),
            "attach d0 p0",
            REGISTER,
            f"{KEYED_READ} job=1",
            "submit d0 job=1",
            MAP,
            "wait d0 job=1 => 0",
        ],
        "C3",
    ),
    "the job ran before the unmap": (
        [
            MAP,
            write(),
            "attach d0 p0",
            REGISTER,
            f"{KEYED_READ} job=1",
            "submit d0 job=1",
            MAP,
            f"wait d0 job=1 => {W}",
        ],
        None,
    ),
}
