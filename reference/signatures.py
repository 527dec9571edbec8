"""Which fields each kind of operation uses, and how they are written.

The parser, the printer, the checks and the table in the docs all read this one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from .operations import Flag, Kind

__all__ = ["RIGHTS", "SIGNATURES", "Argument", "Signature"]

RIGHTS: Mapping[str, Flag] = {"none": Flag(0), "r": Flag.READ, "rw": Flag.READ | Flag.WRITE}
"""Rights as written in a program.  As on x86 and arm64, write without read does not exist."""


_NO_FLAG = Flag(0)


@dataclass(frozen=True)
class Argument:
    """One argument of an operation: how it is written, and the field that it sets.

    Styles: `number` is written `name=7`, `hex` `name=0x7`, `process` `p0`, `device` `d0`,
    `child` `child=p1`, `event` `event=clear`, `rights` one of `RIGHTS`, `word` its bare name.
    """

    name: str
    field: str
    style: str = "number"
    optional: bool = False
    flag: Flag = _NO_FLAG
    """Bit of `flags` that is set when the argument is present."""


@dataclass(frozen=True)
class Signature:
    """The arguments of one kind, in the order in which they are printed, and its meaning."""

    arguments: tuple[Argument, ...]
    meaning: str

    @cached_property
    def fields(self) -> frozenset[str]:
        names = {argument.field for argument in self.arguments}
        return frozenset(names | {"flags"} if any(a.flag for a in self.arguments) else names)


_PROCESS = Argument("process", "process", "process")
_DEVICE = Argument("device", "device", "device")
_RIGHTS = Argument("rights", "flags", "rights")
_RANGE = (Argument("page", "page"), Argument("pages", "pages"))
_SPAN = (Argument("page", "page"), Argument("offset", "offset"), Argument("length", "length"))
_VALUE = Argument("value", "value", "hex")
_EXPECTED = Argument("expected", "expected", "hex")
_KEY = Argument("key", "key", optional=True)
_JOB = Argument("job", "job", optional=True)
_VIA = (_KEY, _JOB)


def _word(name: str, flag: Flag) -> Argument:
    return Argument(name, "flags", "word", optional=True, flag=flag)


def _cpu(meaning: str, *more: Argument) -> Signature:
    return Signature((_PROCESS, *_SPAN, *more), meaning)


def _area(meaning: str) -> Signature:
    return Signature((_PROCESS, *_RANGE), meaning)


def _mirror(meaning: str, *more: Argument) -> Signature:
    return Signature((_DEVICE, *more, *_RANGE), meaning)


def _device(meaning: str, *more: Argument) -> Signature:
    return Signature((_DEVICE, *_SPAN, *more, *_VIA), meaning)


SIGNATURES: Mapping[Kind, Signature] = {
    Kind.MAP: Signature(
        (
            _PROCESS,
            _RIGHTS,
            _word("shared", Flag.SHARED),
            *_RANGE,
            Argument("file", "file", optional=True, flag=Flag.FILE),
            Argument("from", "target", optional=True),
        ),
        "mmap with MAP_FIXED, over whatever is there; anonymous, or a file from one of its pages",
    ),
    Kind.UNMAP: _area("munmap"),
    Kind.REMAP: Signature(
        (_PROCESS, *_RANGE, Argument("to", "target"), _word("dontunmap", Flag.DONTUNMAP)),
        "mremap with MREMAP_MAYMOVE and MREMAP_FIXED, over whatever is at the destination",
    ),
    Kind.PROTECT: Signature((_PROCESS, _RIGHTS, *_RANGE), "mprotect"),
    Kind.DISCARD: _area("madvise MADV_DONTNEED"),
    Kind.PUNCH: _area("madvise MADV_REMOVE"),
    Kind.FREE: _area("madvise MADV_FREE"),
    Kind.TRUNCATE: Signature(
        (_PROCESS, Argument("file", "file"), Argument("pages", "pages")),
        "ftruncate a file to a number of pages",
    ),
    Kind.FORK: Signature((_PROCESS, Argument("child", "target", "child")), "fork"),
    Kind.EXIT: Signature((_PROCESS,), "the process exits; devices attached to it stay attached"),
    Kind.READ: _cpu("CPU load of each word"),
    Kind.WRITE: _cpu("CPU store of value + k to the k-th word", _VALUE),
    Kind.ADD: _cpu("CPU atomic add of value to each word", _VALUE),
    Kind.CAS: _cpu("CPU compare-exchange of each word", _EXPECTED, _VALUE),
    Kind.RECLAIM: _area("reclaim the pages to swap or to their file"),
    Kind.MIGRATE: _area("move the pages to other frames"),
    Kind.COLLAPSE: _area("collapse the pages into huge ones"),
    Kind.SPLIT: _area("split the huge pages in the range"),
    Kind.MERGE: _area("merge pages of equal contents"),
    Kind.ATTACH: Signature((_DEVICE, _PROCESS), "the device mirrors this address space"),
    Kind.DETACH: Signature((_DEVICE,), "the device lets go; its registrations are dropped"),
    Kind.DREAD: _device("device load of each word"),
    Kind.DWRITE: _device("device store of value + k to the k-th word", _VALUE),
    Kind.DADD: _device("device atomic add of value to each word", _VALUE),
    Kind.DCAS: _device("device compare-exchange of each word", _EXPECTED, _VALUE),
    Kind.FAULT: _mirror("fault the range in for reading or writing", _RIGHTS),
    Kind.TO_DEVICE: _mirror("migrate the pages to device memory"),
    Kind.TO_SYSTEM: _mirror("migrate the pages back to system memory"),
    Kind.EXCLUSIVE: _mirror("take exclusive access to the pages"),
    Kind.REGISTER: _mirror("register the range under a key", Argument("key", "key"), _RIGHTS),
    Kind.UNREGISTER: Signature((_DEVICE, Argument("key", "key")), "drop the registration"),
    Kind.SUBMIT: Signature((_DEVICE, Argument("job", "job")), "start the job"),
    Kind.WAIT: Signature((_DEVICE, Argument("job", "job")), "wait for the job; gives its outcomes"),
    Kind.INVALIDATE: Signature(
        (
            _PROCESS,
            *_RANGE,
            Argument("event", "event", "event"),
            _word("nonblock", Flag.NONBLOCK),
        ),
        "an invalidation with no change behind it",
    ),
    Kind.SNAPSHOT: _mirror("look at the pages without faulting them in; gives a byte for each"),
}
"""Every kind's signature.  The accesses with `job` are queued, and done between submit and wait."""
