"""When a private file page gets a copy of its own is the kernel's choice, within limits.

A copy keeps what the file held when it was made, so every moment at which it may have been made
leaves another value that a read may give.
"""

from __future__ import annotations

import pytest
from model_cases import W, X, read, write
from test_model import judged

SHARED = "map p0 rw shared page=0 pages=1 file=0"
PRIVATE = "map p0 rw page=1 pages=1 file=0"
PUNCH = "punch p0 page=0 pages=1"
LAST = 61440
"""Where the last granule of a large page begins."""

# By what may have given the last granule a copy.  Before that the private page has one of its
# first granule, which is surely its own.
TOUCHES = {
    "a device's read": [f"{read(1, LAST + 8, who='dread d0')} => 0"],
    "a compare-exchange that fails": [
        f"cas p0 page=1 offset={LAST + 8} length=8 expected=0x9 value={X:#x} => 0"
    ],
    "a job": [
        f"{read(1, LAST + 8, who='dread d0')} job=1",
        "submit d0 job=1",
        "wait d0 job=1 => 0",
    ],
    "a write that may have gone elsewhere": [write(1, X, offset=LAST + 8)],
}
BEGUN = [SHARED, PRIVATE, "attach d0 p0"]
COPIED = [*BEGUN, write(1, X), write(0, W, offset=LAST)]
IN_DOUBT = [*BEGUN, f"{read(1, who='dread d0')} => 0", write(1, X), write(0, W, offset=LAST)]


def last_read(begun: list[str], value: int) -> str:
    """The rule that a read of the last granule breaks once the file holds zeros, or nothing."""
    lines = [*begun, PUNCH, f"{read(1, LAST)} => {value}"]
    violation = judged("\n".join(lines), page_size=65536).violation
    assert violation is None or violation.index == len(lines) - 1
    return "" if violation is None else violation.rule


@pytest.mark.parametrize("name", TOUCHES)
def test_a_granule_may_be_copied_by_whatever_touches_it(name: str) -> None:
    begun = (IN_DOUBT if name == "a write that may have gone elsewhere" else COPIED) + TOUCHES[name]
    assert [last_read(begun, value) for value in (W, 0, X)] == ["", "", "A4"]


def test_a_granule_that_was_not_touched_is_not_copied() -> None:
    """Not granule by granule, that is: the first write may have copied the zeros of the rest."""
    assert [last_read(COPIED, value) for value in (W, 0)] == ["C1", ""]


@pytest.mark.parametrize(
    ("who", "old", "rule"),
    [
        ("dwrite d0", W, ""),
        ("dwrite d0", 0, ""),
        ("dwrite d0", X, "A4"),
        ("write p0", W, ""),
        ("write p0", 0, "C1"),
    ],
)
def test_a_device_may_copy_all_pages_before_it_writes_any(who: str, old: int, rule: str) -> None:
    """process_vm_writev pins several pages at once, and a pin for writing copies."""
    lines = [*BEGUN, write(0, W, 16, 4088, who), f"{read(1, 4088)} => {old}"]
    violation = judged("\n".join(lines)).violation
    assert ("" if violation is None else violation.rule) == rule
