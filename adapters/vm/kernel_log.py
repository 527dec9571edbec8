"""The kernel's log, as it comes out of the machine's serial port, searched for complaints.

A complaint is what a kernel prints when it finds itself broken.  What says only that time has
passed (a stall of RCU, a soft lockup) is none: the machine itself may have been held up.
"""

from __future__ import annotations

import fcntl
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
_END = re.compile(rf"^{_STAMP}---\[ end ", re.MULTILINE)
_LINES = 80
"""Lines of a complaint that are shown at most."""
_LINE = 240
_TRIM = 1 << 20
"""Bytes of log from which on its beginning is dropped."""
_TAIL = 16 << 10


def find_complaint(text: str) -> str | None:
    """The first complaint: what is wrong in one line, and below it the kernel's report."""
    found = _COMPLAINT.search(text)
    if found is None:
        return None
    rest = text[found.end() :]
    end = _END.search(rest)
    lines = rest[: end.start() if end else None].splitlines()[:_LINES]
    return "\n".join(line[:_LINE].rstrip() for line in (found[1], *filter(None, lines)))


class KernelLog:
    """A file in memory that the machine's serial port is written to.

    Unlike a pipe it needs nobody to read it, so that a kernel that prints without end is not held
    up and holds nobody up; `look` reads what has come and cuts the file when it gets long.
    """

    def __init__(self) -> None:
        self.file = os.memfd_create("kernel-log", os.MFD_CLOEXEC)
        fcntl.fcntl(self.file, fcntl.F_SETFL, os.O_APPEND)  # so that cutting moves the writer
        self._at = 0
        self._text = ""
        self.complaint: str | None = None
        """The first one since `begin`; its first line says what is wrong."""

    def begin(self) -> None:
        """What comes from now on belongs to another program; a complaint stays."""
        self.look()
        self._text = ""

    def look(self) -> str | None:
        """Read on; the first complaint since the start, if there is one."""
        size = os.fstat(self.file).st_size
        if size > self._at:
            new = os.pread(self.file, size - self._at, self._at).replace(b"\r", b"")
            self._text += printable(new.decode(errors="replace"))
            self._at = size
            # A complaint goes on to grow while it is printed.
            self.complaint = find_complaint(self._text) or self.complaint
            self._trim()
        return self.complaint

    def _trim(self) -> None:
        if self._at > _TRIM:
            os.ftruncate(self.file, 0)
            self._at = 0
        if self.complaint is None or len(self._text) > _TRIM:
            self._text = self._text[-_TAIL:]

    def tail(self) -> str:
        """The last that was printed for this program."""
        self.look()
        return self._text[-_TAIL:].strip()

    def close(self) -> None:
        os.close(self.file)
