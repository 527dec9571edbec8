"""The kernel's log, as it comes out of the machine's serial port, searched for complaints.

A complaint is what a kernel prints when it finds itself broken.  What says only that time has
passed (a stall of RCU, a soft lockup) is none: the machine itself may have been held up.

The agent marks in the log where each program begins, so that the next may run already while it is
asked what was said in one.  A driver could print such marks, too: they say whose a complaint is,
never that there is none.
"""

from __future__ import annotations

import mmap
import os
import re

from ..wire import printable

__all__ = ["KernelLog", "find_complaint"]

_STAMP = r"(?:\[ *[0-9.]+\])?(?:\[ *[TC][0-9]+\])? ?"
_COMPLAINT = re.compile(
    rf"^{_STAMP}("
    r"WARNING: .*"
    r"|BUG: .*"
    r"|kernel BUG at .*"
    r"|Oops.*"
    r"|general protection fault.*"
    r"|INFO: task .* blocked for more than .*"
    r"|INFO: trying to register non-static key.*"
    r"|UBSAN: .*"
    r"|Kernel panic - not syncing.*"
    r"|.*: Kernel stack overflow.*"
    r")$",
    re.MULTILINE,
)
"""The line that says what is wrong."""
_NOISE = re.compile(
    rf"^{_STAMP}(?!RIP)(?:Code|R[A-Z0-9]{{2}}|[FC]S|[CD]R\d|PKRU|PGD \d|Modules linked in)\b"
)
"""Lines of a report that tell nobody anything without the machine at hand: registers, mostly."""
_END = re.compile(rf"^{_STAMP}(?:---\[ end |lastwriter: program )", re.MULTILINE)
_MARK = re.compile(rf"^{_STAMP}lastwriter: program ([0-9]{{1,18}})\n", re.MULTILINE)
"""What the agent prints when a program begins, numbered from 1."""
_LINES = 80
"""Lines of a complaint that are shown at most."""
_LINE = 240
_BEFORE = 500
"""Characters before a complaint that may belong to it."""
_MUCH = 1 << 20
"""Bytes of log from which on their memory is given back."""
_KEPT = 16 << 10
"""Characters that are kept of a complaint, and of what was printed last."""


def find_complaint(text: str) -> str | None:
    """The first complaint: what is wrong in one line, and below it the kernel's report."""
    found = _COMPLAINT.search(text)
    if found is None:
        return None
    rest = text[found.end() :]
    end = _END.search(rest)
    lines = _said_before(text[: found.start()])
    lines += rest[: end.start() if end else None].splitlines()[:_LINES]
    told = (line for line in lines if line and not _NOISE.match(line))
    shown = (line[:_LINE].rstrip() for line in (found[1], *told))
    return printable("\n".join(shown))


def _said_before(text: str) -> list[str]:
    """What a warning has to say, which stands above the line that says it is one."""
    _, cut, said = text[-_BEFORE:].rpartition("[ cut here ]------------\n")
    return said.splitlines() if cut else []


class KernelLog:
    """A file in memory that the machine's serial port is written to.

    Unlike a pipe it needs nobody to read it, so that a kernel that prints without end is not held
    up and holds nobody up; `look` reads what has come, and gives its memory back.
    """

    def __init__(self) -> None:
        self.file = os.memfd_create("kernel-log", os.MFD_CLOEXEC)
        self._at = 0
        self._freed = 0
        self._tail = ""
        self._report = ""
        """What was printed since a complaint began, if one did."""
        self._program = 0
        self.owner = 0
        """The program that the first complaint was made in, 0 before all programs."""

    def look(self) -> str | None:
        """Read on; the first complaint since the start, as `find_complaint` gives it, or None."""
        size = os.fstat(self.file).st_size
        if size > self._at:
            new = os.pread(self.file, size - self._at, self._at).replace(b"\r", b"")
            self._at = size
            self._take(new.decode(errors="replace"))
            self._free()
        return find_complaint(self._report)

    def _take(self, new: str) -> None:
        # Whole lines were searched when they came.
        begin, text = self._tail.rfind("\n") + 1, self._tail + new
        if self._report:
            self._report = (self._report + new)[:_KEPT]
        elif found := _COMPLAINT.search(text, begin):
            self._report = text[max(0, found.start() - _BEFORE) :][:_KEPT]
            self.owner = self._last_program(text, begin, found.start())
        self._program = self._last_program(text, begin, len(text))
        self._tail = text[-_KEPT:]

    def _last_program(self, text: str, begin: int, end: int) -> int:
        """The last that begins in a part of a text, or else before it."""
        marks = _MARK.findall(text, begin, end)
        return int(marks[-1]) if marks else self._program

    def _free(self) -> None:
        # Cutting the file would lose what is written to it at this moment.
        done = self._at - self._at % mmap.ALLOCATIONGRANULARITY - self._freed
        if done > _MUCH:
            with mmap.mmap(self.file, done, offset=self._freed) as read:
                read.madvise(mmap.MADV_REMOVE)
            self._freed += done

    def tail(self) -> str:
        """The last that was printed."""
        self.look()
        return printable(self._tail).strip()

    def tail_of(self, program: int) -> str:
        """The last that was printed while a program ran."""
        self.look()
        begin, end = 0, len(self._tail)
        for mark in _MARK.finditer(self._tail):
            if int(mark[1]) > program:
                end = mark.start()
                break
            begin = mark.end()
        return printable(self._tail[begin:end]).strip()

    def close(self) -> None:
        os.close(self.file)
