"""hmm_range_fault: entries of the CPU's page tables, faulted in on request."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reference.mirrors.frames import Frame
from reference.mirrors.memory import Area

from .broken import Broken
from .notifiers import IntervalNotifier
from .record import What
from .space import AddressSpace

if TYPE_CHECKING:
    from .hardware import Device
    from .host import Host

__all__ = [
    "HMM_PFN_ERROR",
    "HMM_PFN_ORDER_SHIFT",
    "HMM_PFN_REQ_FAULT",
    "HMM_PFN_REQ_WRITE",
    "HMM_PFN_VALID",
    "HMM_PFN_WRITE",
    "HmmRange",
    "hmm_pfn_to_number",
    "hmm_range_fault",
    "hmm_range_fault_unlocked_timeout",
]

HMM_PFN_VALID = 1 << 63
HMM_PFN_WRITE = 1 << 62
HMM_PFN_ERROR = 1 << 61
HMM_PFN_ORDER_SHIFT = 56
HMM_PFN_ORDER_MASK = 0x1F
HMM_PFN_REQ_FAULT = HMM_PFN_VALID
HMM_PFN_REQ_WRITE = HMM_PFN_WRITE
HMM_PFN_FLAGS = ~0 << HMM_PFN_ORDER_SHIFT & ((1 << 64) - 1)


@dataclass
class HmmRange:
    """`struct hmm_range`: bytes `start` to `end` (exclusive) of the notifier's address space."""

    notifier: IntervalNotifier
    notifier_seq: int
    start: int
    end: int
    default_flags: int = 0
    pfn_flags_mask: int = 0
    dev_private_owner: object | None = None
    hmm_pfns: list[int] = field(default_factory=list)


def hmm_pfn_to_number(pfn: int) -> int:
    """The page frame number in an entry of `hmm_pfns` (`hmm_pfn_to_page`)."""
    return pfn & ~HMM_PFN_FLAGS


def hmm_range_fault(host: Host, device: Device, range_: HmmRange) -> int:
    """0, or -EBUSY if the range was invalidated, -EFAULT, -EPERM or -EINVAL (H3)."""
    mm = _address_space(range_, "hmm_range_fault")
    if not mm.mmap_lock.held():
        raise Broken("H1", "hmm_range_fault is called without mmap_lock")
    answer = _look_up(host, device, mm, range_, _requests(host, range_))
    host.tasks.point("hmm_range_fault")
    return answer


def hmm_range_fault_unlocked_timeout(
    host: Host,
    device: Device,
    range_: HmmRange,
    timeout: int,
    read_begin: Callable[[IntervalNotifier], int],
) -> int:
    """As `hmm_range_fault`, with read sections and mmap_lock of its own (H11).

    A fault may drop the lock, and then the walk starts over in a new read section, as it does
    after -EBUSY.  There are no clocks here: a timeout other than 0 is over when an injected
    failure says so, and -EBUSY is the answer then; the wait for the lock may be interrupted.
    """
    mm = _address_space(range_, "hmm_range_fault_unlocked_timeout")
    if mm.mmap_lock.held():
        what = "is called with mmap_lock held, which it takes itself"
        raise Broken("H11", f"hmm_range_fault_unlocked_timeout {what}")
    requests = _requests(host, range_)
    while True:
        range_.notifier_seq = read_begin(range_.notifier)
        if host.fails("wait"):
            answer = -errno.EINTR
            break
        with mm.mmap_lock.reading():
            answer = _look_up(host, device, mm, range_, requests, may_drop=True)
        host.tasks.point("hmm_range_fault_unlocked_timeout")
        if answer != -errno.EBUSY or (timeout and host.fails("wait")):
            break
    host.record(What.UNLOCKED, device.number, answer)
    return answer


def _address_space(range_: HmmRange, service: str) -> AddressSpace:
    mm = range_.notifier.mm
    if mm is None:
        raise Broken("H1", f"{service} for a subscription that is not inserted")
    return mm


def _look_up(
    host: Host,
    device: Device,
    mm: AddressSpace,
    range_: HmmRange,
    requests: list[int],
    *,
    may_drop: bool = False,
) -> int:
    """One walk, as in the event record: 0 or a negative errno."""
    first, end = _slots(host, range_)
    asked = "".join(_REQUESTS[request & _REQUESTED] for request in requests)
    host.record(What.COLLECT, device.number, mm.number, first, end, range_.notifier_seq, asked)
    host.locks.might_sleep("hmm_range_fault")
    answer = _collect(host, device, mm, range_, requests, may_drop=may_drop)
    if answer == 0:
        for slot, pfn in enumerate(range_.hmm_pfns, first):
            host.record(What.FOUND, device.number, slot, *_told(pfn))
    host.record(What.COLLECTED, device.number, answer)
    return answer


def _slots(host: Host, range_: HmmRange) -> tuple[int, int]:
    return host.slot(range_.start), host.slot(range_.end - 1) + 1


def _told(pfn: int) -> tuple[int, int, int]:
    """An entry of `hmm_pfns` as in the event record: frame, writable, order."""
    order = pfn >> HMM_PFN_ORDER_SHIFT & HMM_PFN_ORDER_MASK
    frame = -1 if pfn & HMM_PFN_ERROR else -2
    if pfn & HMM_PFN_VALID:
        frame = hmm_pfn_to_number(pfn)
    return frame, int(bool(pfn & HMM_PFN_WRITE)), order


_REQUESTED = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE
_REQUESTS = {_REQUESTED: "w", HMM_PFN_REQ_FAULT: "r", HMM_PFN_REQ_WRITE: "x", 0: "-"}
"""What is asked for a page, as in the event record."""


def _requests(host: Host, range_: HmmRange) -> list[int]:
    """What is asked for each page: its own request under the mask, and the default one (H4)."""
    first, end = _slots(host, range_)
    pages = end - first
    given = range_.hmm_pfns if len(range_.hmm_pfns) == pages else [0] * pages
    return [pfn & range_.pfn_flags_mask | range_.default_flags for pfn in given]


def _collect(
    host: Host,
    device: Device,
    mm: AddressSpace,
    range_: HmmRange,
    requests: list[int],
    *,
    may_drop: bool,
) -> int:
    first, end = _slots(host, range_)
    if range_.start >= range_.end or not 0 <= first < end <= host.geometry.pages:
        return -errno.EINVAL
    range_.hmm_pfns = [0] * (end - first)
    for slot in range(first, end):
        while True:
            if range_.notifier.invalidate_seq != range_.notifier_seq:
                return -errno.EBUSY
            if _is_barred(mm.areas.get(slot)):
                host.record(What.BARRED, device.number, slot)
            answer, pfn = _walk(host, mm, slot, requests[slot - first], range_.dev_private_owner)
            if answer != -errno.EAGAIN:
                break
            if may_drop:
                return -errno.EBUSY
        if answer:
            return answer
        range_.hmm_pfns[slot - first] = pfn
    return 0


def _is_barred(area: Area | None) -> bool:
    """`hmm_vma_walk_test`: whether nobody may look into an area (H8).

    An area of device registers (VM_IO or VM_PFNMAP) goes the same way in the kernel; there are
    none here.
    """
    return area is not None and not area.readable


def _walk(
    host: Host, mm: AddressSpace, slot: int, request: int, owner: object | None
) -> tuple[int, int]:
    """One page: its entry, -EAGAIN after a fault, or the error."""
    fault, write = bool(request & HMM_PFN_REQ_FAULT), bool(request & HMM_PFN_REQ_WRITE)
    area = mm.areas.get(slot)
    if area is None or _is_barred(area):
        host.deny()
        return (-errno.EFAULT, 0) if fault else (0, HMM_PFN_ERROR)
    if fault and write and not area.writable:
        host.deny()
        return -errno.EPERM, 0
    entry = mm.table.get(slot)
    frame = entry.frame if entry is not None else None
    own = frame is not None and owner is not None and _owner(frame) is owner
    if entry is not None and frame is not None and (entry.present or (own and not entry.migrating)):
        flags = HMM_PFN_VALID | (HMM_PFN_WRITE if entry.writable else 0)
        if not (fault and write and not entry.writable):
            host.tasks.task.granted = len(host.history)
            order = _order(entry.huge) if not own else 0
            return 0, frame.number | flags | order << HMM_PFN_ORDER_SHIFT
    if not fault:
        return 0, 0
    return (-errno.EAGAIN, 0) if mm.handle_fault(slot, write, owner) else (-errno.EFAULT, 0)


def _owner(frame: Frame) -> object | None:
    """Who owns the device memory that a frame lies in, if it lies in any."""
    return getattr(frame.device, "owner", None)


def _order(huge: object | None) -> int:
    """log2 of the pages that the CPU maps at once (H10)."""
    if huge is None or not getattr(huge, "whole", False):
        return 0
    return int(getattr(huge, "end", 0) - getattr(huge, "first", 0)).bit_length() - 1
