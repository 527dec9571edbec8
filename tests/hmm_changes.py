"""Changes of the kernel's HMM driver, as edits of its source, which is not part of this project.

`python tests/hmm_changes.py FOLDER` writes the driver without the failures that it is known for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adapters.candidate import CandidateError
from adapters.vm.places import current

__all__ = ["CHANGES", "MENDED", "Change", "Edit", "edited", "mended"]


@dataclass(frozen=True)
class Edit:
    """What stands once in a function's body becomes something else."""

    function: str
    old: str
    new: str

    def apply(self, source: str) -> str:
        """The source with the edit; `AssertionError` unless it fits exactly once."""
        found = re.search(
            rf"^(static [^;{{}}]*)?\b{self.function}\([^;{{}}]*\)\n{{.*?^}}$", source, re.M | re.S
        )
        assert found, f"no function {self.function}"
        body = found[0]
        assert body.count(self.old) == 1, f"{self.function}: {body.count(self.old)} of {self.old!r}"
        return source[: found.start()] + body.replace(self.old, self.new) + source[found.end() :]


@dataclass(frozen=True)
class Change:
    """A driver that goes wrong."""

    edits: tuple[Edit, ...]
    rules: frozenset[str]
    """Any of these is what it breaks."""


def edited(source: str, edits: Iterable[Edit]) -> str:
    """The source with edits, one after another."""
    for edit in edits:
        source = edit.apply(source)
    return source


MENDED = (
    # docs/findings/hmm-own-memory-again.md
    Edit("dmirror_do_fault", "entry = page;", "entry = BACKING_PAGE(page);"),
    # docs/findings/hmm-write-not-given.md
    Edit(
        "dmirror_range_fault",
        "\t\tmutex_lock(&dmirror->mutex);\n",
        """
		if (range->default_flags & HMM_PFN_REQ_WRITE) {
			unsigned long at = range->start, *given = range->hmm_pfns;

			while (at < range->end && (*given & HMM_PFN_WRITE))
				at += PAGE_SIZE, given++;
			if (at < range->end) {
				mmap_read_lock(mm);
				ret = fixup_user_fault(mm, at, FAULT_FLAG_WRITE, NULL);
				mmap_read_unlock(mm);
				if (ret)
					goto out;
				continue;
			}
		}
		mutex_lock(&dmirror->mutex);
""",
    ),
    # docs/findings/hmm-not-dirtied.md
    Edit(
        "dmirror_do_write",
        "memcpy_to_page(page, 0, ptr, PAGE_SIZE);",
        "memcpy_to_page(page, 0, ptr, PAGE_SIZE);\n\t\tset_page_dirty(page);",
    ),
    Edit(
        "dmirror_devmem_fault_alloc_and_copy",
        "copy_highpage(dpage, spage);",
        "copy_highpage(dpage, spage);\n\t\tif (PageDirty(spage))\n\t\t\tSetPageDirty(dpage);",
    ),
    Edit(
        "dmirror_device_evict_chunk",
        "copy_highpage(dpage, spage);",
        "copy_highpage(dpage, spage);\n\t\tif (PageDirty(spage))\n\t\t\tSetPageDirty(dpage);",
    ),
)
"""The kernel's own driver without the failures that it is known for."""

_UPDATE = "dmirror_do_update(dmirror, range->start, range->end);"
_INVALIDATE = "dmirror_interval_invalidate"


def _invalidate(new: str) -> tuple[Edit, ...]:
    return (Edit(_INVALIDATE, _UPDATE, new),)


def _unless(event: str) -> tuple[Edit, ...]:
    return _invalidate(f"if (range->event != {event})\n\t\t{_UPDATE}")


_WRONG_VALUE = frozenset({"A4", "C1", "C3", "G2", "G4", "G7", "G9", "H7", "I12", "X1"})
"""A value that is wrong is told by what its page has been through (`rule_of` of the model)."""
_STALE = _WRONG_VALUE | {"A2", "H3"}
"""What comes next decides how a stale entry shows: by what was there before or by what belongs to
others, by a right that is gone or by one that is missing."""
_HALF = _WRONG_VALUE
"""The other half of a page is whatever its frame held before."""
CHANGES = {
    "forgets nothing": Change(_invalidate(";"), _STALE),
    "forgets all but the last page": Change(
        _invalidate("dmirror_do_update(dmirror, range->start, range->end - 2 * PAGE_SIZE);"), _STALE
    ),
    "forgets all but the first page": Change(
        _invalidate("dmirror_do_update(dmirror, range->start + PAGE_SIZE, range->end);"), _STALE
    ),
    "ignores that memory is unmapped": Change(_unless("MMU_NOTIFY_UNMAP"), _STALE),
    "ignores that pages are taken away": Change(_unless("MMU_NOTIFY_CLEAR"), _STALE),
    "keeps a mapping's right to write": Change(_unless("MMU_NOTIFY_PROTECTION_VMA"), _STALE),
    "ignores every migration": Change(
        (Edit(_INVALIDATE, "range->owner == dmirror->mdevice", "true"),), _STALE
    ),
    "keeps what has gone home": Change(
        (
            Edit(
                "dmirror_devmem_fault_alloc_and_copy",
                "xa_erase(&dmirror->pt, addr >> PAGE_SHIFT);",
                ";",
            ),
        ),
        _STALE,
    ),
    "takes half a page along": Change(
        (
            Edit(
                "dmirror_migrate_alloc_and_copy",
                "copy_highpage(rpage, spage);",
                "memcpy_page(rpage, 0, spage, 0, PAGE_SIZE / 2);",
            ),
        ),
        _HALF,
    ),
    "brings half a page home": Change(
        (
            Edit(
                "dmirror_devmem_fault_alloc_and_copy",
                "copy_highpage(dpage, spage);",
                "memcpy_page(dpage, 0, spage, 0, PAGE_SIZE / 2);",
            ),
        ),
        _HALF,
    ),
    "does not clear new memory": Change(
        (Edit("dmirror_migrate_alloc_and_copy", "clear_highpage(rpage);", ";"),),
        frozenset({"G4", "G7"}),
    ),
    "writes where it may only read": Change(
        (
            Edit(
                "dmirror_do_write",
                "|| xa_pointer_tag(entry) != DPT_XA_TAG_WRITE",
                "",
            ),
        ),
        _STALE,
    ),
    "takes every right": Change(
        (Edit("dmirror_do_fault", "if (*pfns & HMM_PFN_WRITE)", "if (true)"),), _STALE
    ),
    "asks only to read": Change(
        (
            Edit(
                "dmirror_write",
                "dmirror_fault(dmirror, start, end, true)",
                "dmirror_fault(dmirror, start, end, false)",
            ),
        ),
        frozenset({"R2"}),
    ),
    # Nothing but a snapshot shows the next three.
    "shows every right": Change(
        (Edit("dmirror_mkentry", "if (entry & HMM_PFN_WRITE)", "if (true)"),),
        frozenset({"H12", "H14"}),
    ),
    "shows every page in its own memory": Change(
        (
            Edit(
                "dmirror_mkentry",
                "else\n\t\t*perm = HMM_DMIRROR_PROT_NONE;",
                "else\n\t\t*perm = HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;",
            ),
        ),
        frozenset({"H13"}),
    ),
    "shows what may only be read as zeros": Change(
        (
            Edit(
                "dmirror_mkentry",
                "is_zero_pfn(page_to_pfn(page))",
                "!(entry & HMM_PFN_WRITE)",
            ),
        ),
        frozenset({"H14"}),
    ),
    "does not look whether it was told meanwhile": Change(
        (
            # Time for something to happen meanwhile.
            Edit(
                "dmirror_range_fault",
                "\t\tmutex_lock(&dmirror->mutex);\n",
                "\t\tmsleep(20);\n\t\tmutex_lock(&dmirror->mutex);\n",
            ),
            Edit(
                "dmirror_range_fault",
                "mmu_interval_read_retry(range->notifier,\n\t\t\t\t\t    range->notifier_seq)",
                "false",
            ),
        ),
        frozenset({"A4", "C1", "C2", "C3", "I12", "H3"}),
    ),
}
"""Each on top of what is mended."""


def mended() -> str:
    """The source of the driver of the kernel that was built, mended; `CandidateError`."""
    return edited((current("lean").build / "source/lib/test_hmm.c").read_text(), MENDED)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/hmm_changes.py FOLDER")
    try:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test_hmm.c").write_text(mended())
    except (CandidateError, OSError) as error:
        sys.exit(str(error))
