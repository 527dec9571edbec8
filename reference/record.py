"""The event record of a run: what driver, host and hardware did, in the order in which they did it.

Plain data, one entry for each thing that a protocol rule may be about.  Nothing is judged here.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = ["STATES", "Entry", "What"]


class What(enum.IntEnum):
    """What happened.  The comment gives the entry's arguments, in order.

    Ranges are page slots, the end exclusive; `space` and `device` are their numbers;
    `subscription` numbers interval and list notifiers together, `lock` all locks.  "Each page"
    is an argument for each, or one string with a letter for each: a state, or as rights `w`, `r`
    or `-`.
    """

    BEGIN = 1  # kind of operation
    END = 2  # kind of operation, status of its outcome
    START = 3  # range number, space, first, end, event, owner, blockable, state of each page
    CALLBACK = 4  # subscription, range number, current sequence (0: a list notifier)
    RETURNED = 5  # subscription, range number, answer (1: done, 0: refused, 2: the first of two
    # passes is, 3: it was all that there was to do; else a negative errno)
    STARTED = 6  # range number, answer (0 or a negative errno)
    CHANGE = 7  # space, first, end, event, rights of each page: entries of the CPU have changed
    FINISH = 8  # range number
    INSERT = 9  # subscription, device, space, first, end, sequence (0: a list notifier)
    REMOVE = 10  # subscription: removal begins
    REMOVED = 11  # subscription: no callback will run any more
    RELEASE = 12  # space, first page, state of each page: its last user is gone
    READ_BEGIN = 13  # subscription, sequence
    READ_RETRY = 14  # subscription, sequence asked about, answer
    SET_SEQUENCE = 15  # subscription, sequence
    COLLECT = 16  # device, space, first, end, sequence, what is asked for each page: `w` to write,
    # `r` to read, `-` nothing, `x` to write and not to fault: hmm_range_fault is called
    COLLECTED = 17  # device, answer (0 or a negative errno)
    ACQUIRE = 18  # lock, how (0 exclusive, 1 shared): one of a driver's is taken
    UNLOCK = 19  # lock, how
    SLEEP = (
        20  # lock or 0: the task may sleep here; outside callbacks not for locks of the kernel's
    )
    BLOCK = 21  # lock or 0: the task does sleep
    DEVICE_MAP = 22  # device, table, page, DMA address, writable
    DEVICE_UNMAP = 23  # device, table, page
    FLUSH = 24  # device, first, end: the TLB forgets translations; accesses end before it returns
    DMA_MAP = 25  # device, DMA address, frame
    DMA_UNMAP = 26  # device, DMA address
    PIN = 27  # frame, long term, space, page, device
    UNPIN = 28  # frame, device
    GET = 29  # frame: a reference that a driver took
    PUT = 30  # frame: a reference that a driver dropped
    FETCH = 46  # device, table, page: an access looks its translation up and is in flight
    ACCESS = 31  # device, table, page, frame, write: it reaches memory
    SETUP = 32  # device, space, first, answer, frame of each page (0 if it is not locked)
    COPY = 33  # from frame, to frame
    PAGES = 34  # device, space, first, copy that each page leads to now (0: none; -n: not to n)
    FINALIZE = 35  # device, space, first: migrate_vma_finalize
    TO_RAM = 36  # device, frame: the CPU's fault brings a page home
    EXCLUSIVE = 37  # device, space, first, frame of each page (0 if it is not to be had)
    ALLOCATE = 38  # what for, whether it may wait: a driver's own memory
    FREE = 39  # what for
    FAIL = 40  # site, number: an injected failure
    SUBMIT = 41  # device, job
    COMPLETE = 42  # device, job: its last access is done
    ATTACH = 43  # device, space, owner of the device's memory
    DETACH = 44  # device
    LEAK = 45  # what, whether a kernel counts it: found at the end
    LOCK = 47  # device, lock, name: a driver makes a lock
    WALK = 48  # device, table, page: the TLB takes a translation from the page table
    FOUND = 49  # device, page, frame (-1: never, -2: none yet), writable, order: what was collected
    LAUNCH = 50  # device, job, keys: from now on the device works on it
    COPIED = 51  # space, page: a private mapping's page of a file is now one of its own
    REFUSED = 52  # device, space, answer: an interval subscription cannot be inserted
    CHECK_RETRY = 53  # subscription, sequence asked about, answer: mmu_interval_check_retry
    ENDING = 54  # subscription, range number: the end callback of a list notifier begins
    ENDED = 55  # subscription, range number
    FULL = 56  # device: no frame of its memory is free
    OBTAINED = 70  # subscription, device: mmu_notifier_get gives it
    DROPPED = 71  # subscription, device, users left: mmu_notifier_put
    FREED = 72  # subscription: its free callback has run
    FINISHING = 73  # subscription, range number: the second of two passes begins
    FINISHED = 74  # subscription, range number
    BARRED = 75  # device, page: hmm_range_fault has met an area that it may not look into
    UNLOCKED = 76  # device, answer: hmm_range_fault_unlocked_timeout returns
    REGISTER = 77  # device, key, space, first, end: user space asks for it to be registered
    UNREGISTER = 78  # device, key: user space asks for it to be taken back
    KEEP_YOUNG = 80  # device: from now on its page tables have accessed bits, all of them clear
    CLEAR_YOUNG = 81  # device, table, page, whether it was set: an accessed bit is clear
    ASK_YOUNG = 82  # subscription, callback, first, end: it is asked which pages are young
    SAID_YOUNG = 83  # subscription, answer (0 or 1)
    SHARE = 84  # device, space: from now on it walks the process's page table
    UNSHARE = 85  # device
    SHARED_WALK = 86  # device, page, frame, writable: its TLB takes a translation from there
    TELL_TLB = 87  # subscription, first, end: arch_invalidate_secondary_tlbs is called
    TOLD_TLB = 88  # subscription: it has returned
    CLEARED = 89  # space, first, end: entries are clear, all TLBs are told, none is set yet
    SOFT_DIRTY = 90  # space, page: a driver has its soft-dirty bit set
    TRACKED = 91  # space: from now on writes are to be seen, all end callbacks have run
    SVM_FIND = 95  # device, page: drm_gpusvm_range_find_or_insert is called
    SVM_INSERT = 96  # device, number of a new range, first, end
    SVM_GOT = 97  # device, range, first, writable, address of each page: what
    # drm_gpusvm_range_get_pages has got
    SVM_VALID = 98  # device, range, notifier lock, answer: drm_gpusvm_range_pages_valid
    SVM_UNMAPPED = 99  # device, range, first, end of what UNMAP is told of, other pages of it in
    # the device's memory: drm_gpusvm_range_set_unmapped
    SVM_REMOVE = 100  # device, range, pages of it in the device's memory: drm_gpusvm_range_remove
    SVM_FINI = 101  # device: drm_gpusvm_fini


class Entry(NamedTuple):
    """One entry: who did it, in which operation, and what."""

    actor: int
    operation: int
    what: int
    arguments: tuple[int | str, ...]


STATES = {
    "-": "unmapped",
    "h": "hole",
    "p": "present",
    "s": "swapped",
    "d": "device",
    "x": "exclusive",
    "l": "pinned",
    "H": "huge",
    "S": "shared",
}
"""What a page of an address space may be like, by letter."""
