"""The structures and the service table of `include/lastwriter_driver.h`, for ctypes.

A test compares both with what a compiler makes of the header.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int, c_long, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any, NamedTuple

__all__ = [
    "ABI_VERSION",
    "ALLOC_CALLBACK",
    "CALLBACKS",
    "INTERVAL_CALLBACK",
    "KEYED",
    "LIST_CALLBACKS",
    "MODELS",
    "PAGE_FAULTS",
    "PROTOTYPES",
    "SERVICES",
    "STRUCTURES",
    "TWO_PASSES",
    "DeviceStruct",
    "DriverStruct",
    "FaultStruct",
    "FinishStruct",
    "HmmRangeStruct",
    "IntervalOpsStruct",
    "JobStruct",
    "KernelStruct",
    "MigrateStruct",
    "NotifierOpsStruct",
    "NotifierStruct",
    "RangeStruct",
    "Service",
    "VmaStruct",
]

ABI_VERSION = 1
KEYED, PAGE_FAULTS = 1, 2
"""Bits of `flags` of `struct lw_driver`."""
MODELS = ("faulting", "refcounting", "registration")
"""`enum lw_model`."""

Prototype = Any
"""What `ctypes.PYFUNCTYPE` gives: called with an address or a function it makes a pointer."""


class DeviceStruct(ctypes.Structure):
    """`struct lw_device`."""

    _fields_ = (
        ("priv", c_void_p),
        ("va_start", c_uint64),
        ("va_end", c_uint64),
        ("owner", c_void_p),
        ("number", c_uint),
    )


class JobStruct(ctypes.Structure):
    """`struct lw_job`."""

    _fields_ = (
        ("priv", c_void_p),
        ("number", c_uint),
        ("key_count", c_uint),
        ("keys", ctypes.POINTER(c_uint)),
        ("lw_handle", c_uint64),
    )


class RangeStruct(ctypes.Structure):
    """`struct mmu_notifier_range`."""

    _fields_ = (
        ("mm", c_void_p),
        ("start", c_uint64),
        ("end", c_uint64),
        ("flags", c_uint),
        ("event", c_uint),
        ("owner", c_void_p),
    )


class NotifierStruct(ctypes.Structure):
    """`struct mmu_interval_notifier` and `struct mmu_notifier`, which look alike."""

    _fields_ = (("lw_handle", c_uint64), ("mm", c_void_p), ("ops", c_void_p))


class HmmRangeStruct(ctypes.Structure):
    """`struct hmm_range`."""

    _fields_ = (
        ("notifier", c_void_p),
        ("notifier_seq", c_uint64),
        ("start", c_uint64),
        ("end", c_uint64),
        ("hmm_pfns", c_void_p),
        ("default_flags", c_uint64),
        ("pfn_flags_mask", c_uint64),
        ("dev_private_owner", c_void_p),
    )


class MigrateStruct(ctypes.Structure):
    """`struct migrate_vma`."""

    _fields_ = (
        ("mm", c_void_p),
        ("dst", c_void_p),
        ("src", c_void_p),
        ("cpages", c_uint64),
        ("start", c_uint64),
        ("end", c_uint64),
        ("pgmap_owner", c_void_p),
        ("flags", c_uint64),
        ("fault_page", c_void_p),
        ("lw_handle", c_uint64),
    )


class VmaStruct(ctypes.Structure):
    """`struct vm_area_struct`."""

    _fields_ = (("vm_start", c_uint64), ("vm_end", c_uint64), ("vm_write", c_bool))


class FaultStruct(ctypes.Structure):
    """`struct vm_fault`."""

    _fields_ = (("mm", c_void_p), ("address", c_uint64), ("page", c_void_p))


CALLBACKS: dict[str, Prototype] = {
    "open": ctypes.PYFUNCTYPE(c_int, c_void_p, c_void_p),
    "close": ctypes.PYFUNCTYPE(None, c_void_p),
    "fault": ctypes.PYFUNCTYPE(c_int, c_void_p, c_uint64, c_bool),
    "register_range": ctypes.PYFUNCTYPE(c_int, c_void_p, c_uint, c_uint64, c_uint64, c_bool),
    "unregister_range": ctypes.PYFUNCTYPE(c_int, c_void_p, c_uint),
    "submit": ctypes.PYFUNCTYPE(c_int, c_void_p, c_void_p),
    "complete": ctypes.PYFUNCTYPE(None, c_void_p, c_void_p),
    "retire": ctypes.PYFUNCTYPE(None, c_void_p, c_void_p),
    "migrate_to_device": ctypes.PYFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64),
    "migrate_to_system": ctypes.PYFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64),
    "make_exclusive": ctypes.PYFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64),
    "migrate_to_ram": ctypes.PYFUNCTYPE(c_uint, c_void_p, c_void_p),
}
"""Callbacks of `struct lw_driver`, in order."""

INTERVAL_CALLBACK: Prototype = ctypes.PYFUNCTYPE(c_bool, c_void_p, c_void_p, c_uint64)
"""`invalidate` of `struct mmu_interval_notifier_ops`."""

TWO_PASSES: tuple[Prototype, Prototype] = (
    ctypes.PYFUNCTYPE(c_bool, c_void_p, c_void_p, c_uint64, c_void_p),
    ctypes.PYFUNCTYPE(None, c_void_p),
)
"""`invalidate_start` and `invalidate_finish` of `struct mmu_interval_notifier_ops`."""

LIST_CALLBACKS: dict[str, Prototype] = {
    "release": ctypes.PYFUNCTYPE(None, c_void_p, c_void_p),
    "invalidate_range_start": ctypes.PYFUNCTYPE(c_int, c_void_p, c_void_p),
    "invalidate_range_end": ctypes.PYFUNCTYPE(None, c_void_p, c_void_p),
    "clear_flush_young": ctypes.PYFUNCTYPE(c_bool, c_void_p, c_void_p, c_uint64, c_uint64),
    "clear_young": ctypes.PYFUNCTYPE(c_bool, c_void_p, c_void_p, c_uint64, c_uint64),
    "test_young": ctypes.PYFUNCTYPE(c_bool, c_void_p, c_void_p, c_uint64),
    "arch_invalidate_secondary_tlbs": ctypes.PYFUNCTYPE(
        None, c_void_p, c_void_p, c_uint64, c_uint64
    ),
    "free_notifier": ctypes.PYFUNCTYPE(None, c_void_p),
}
"""Callbacks of `struct mmu_notifier_ops` that a notifier has, in order."""

ALLOC_CALLBACK: Prototype = ctypes.PYFUNCTYPE(c_void_p, c_void_p)
"""`alloc_notifier` behind them, which is looked for by `mmu_notifier_get` only: drivers that were
compiled before it came do not have it."""


class IntervalOpsStruct(ctypes.Structure):
    """`struct mmu_interval_notifier_ops`.

    Drivers that were compiled before there were two passes end with `invalidate`, which they have.
    """

    _fields_ = (
        ("invalidate", c_void_p),
        ("invalidate_start", c_void_p),
        ("invalidate_finish", c_void_p),
    )


class FinishStruct(ctypes.Structure):
    """`struct mmu_interval_notifier_finish`."""

    _fields_ = (("notifier", c_void_p),)


class NotifierOpsStruct(ctypes.Structure):
    """`struct mmu_notifier_ops`."""

    _fields_ = (*((name, c_void_p) for name in LIST_CALLBACKS), ("alloc_notifier", c_void_p))


class DriverStruct(ctypes.Structure):
    """`struct lw_driver`."""

    _fields_ = (
        ("abi_version", c_uint32),
        ("size", c_uint32),
        ("name", c_char_p),
        ("model", c_uint32),
        ("flags", c_uint32),
        *((name, c_void_p) for name in CALLBACKS),
    )


class Service(NamedTuple):
    """A function of `struct lw_kernel`."""

    result: Any
    arguments: tuple[Any, ...]
    over: int = 0
    """What it answers once the run is over: something that ends a loop."""


_INIT = Service(None, (c_void_p, c_char_p, c_void_p))
_ON = Service(None, (c_void_p,))

SERVICES: dict[str, Service] = {
    "mutex_init": _INIT,
    "mutex_lock": _ON,
    "mutex_trylock": Service(c_bool, (c_void_p,), over=1),
    "mutex_unlock": _ON,
    "lockdep_assert_held": _ON,
    "spin_lock_init": _INIT,
    "spin_lock": _ON,
    "spin_unlock": _ON,
    "init_rwsem": _INIT,
    "down_read": _ON,
    "up_read": _ON,
    "down_write": _ON,
    "up_write": _ON,
    "init_waitqueue_head": _INIT,
    "wake_up": _ON,
    "prepare_to_wait": Service(c_uint64, (c_void_p,)),
    "schedule": Service(c_int, (c_void_p, c_uint64, c_bool), over=-4),  # -EINTR
    "might_sleep": Service(None, ()),
    "cond_resched": Service(None, ()),
    "dma_fence_wait": _ON,
    "kmalloc": Service(c_void_p, (c_size_t, c_uint, c_char_p)),
    "kfree": _ON,
    "mmget_not_zero": Service(c_bool, (c_void_p,)),
    "mmput": _ON,
    "mmap_read_lock": _ON,
    "mmap_read_unlock": _ON,
    "vma_lookup": Service(c_bool, (c_void_p, c_uint64, c_void_p)),
    "mmu_interval_notifier_insert": Service(
        c_int,
        (c_void_p, c_void_p, c_uint64, c_uint64, c_void_p, c_void_p),
        over=-22,  # -EINVAL
    ),
    "mmu_interval_notifier_remove": _ON,
    "mmu_interval_read_begin": Service(c_uint64, (c_void_p,)),
    "mmu_interval_read_retry": Service(c_bool, (c_void_p, c_uint64)),
    "mmu_interval_check_retry": Service(c_bool, (c_void_p, c_uint64)),
    "mmu_interval_set_seq": Service(None, (c_void_p, c_uint64)),
    "mmu_notifier_register": Service(c_int, (c_void_p, c_void_p, c_void_p), over=-22),
    "mmu_notifier_unregister": _ON,
    "hmm_range_fault": Service(c_int, (c_void_p,), over=-14),  # -EFAULT
    "pin_user_pages": Service(c_long, (c_void_p, c_uint64, c_uint64, c_uint, c_void_p), over=-14),
    "unpin_user_page": _ON,
    "get_page": _ON,
    "put_page": _ON,
    "dma_map_page": Service(c_uint64, (c_void_p, c_void_p)),
    "dma_unmap_page": Service(None, (c_void_p, c_uint64)),
    "alloc_device_page": Service(c_void_p, (c_void_p,)),
    "alloc_page": Service(c_void_p, ()),
    "free_page": _ON,
    "copy_page": Service(c_int, (c_void_p, c_void_p), over=-5),  # -EIO
    "clear_page": _ON,
    "migrate_vma_setup": Service(c_int, (c_void_p,), over=-22),
    "migrate_vma_pages": _ON,
    "migrate_vma_finalize": _ON,
    "device_pages": Service(c_uint64, (c_void_p, c_void_p, c_uint64)),
    "address_of_device_page": Service(c_bool, (c_void_p, c_void_p, c_void_p)),
    "make_device_exclusive_range": Service(
        c_int, (c_void_p, c_uint64, c_uint64, c_void_p, c_void_p), over=-14
    ),
    "device_map": Service(None, (c_void_p, c_uint, c_uint64, c_uint64, c_bool)),
    "device_unmap": Service(None, (c_void_p, c_uint, c_uint64)),
    "device_flush": Service(None, (c_void_p, c_uint64, c_uint64)),
    "device_local_address": Service(c_uint64, (c_void_p, c_void_p)),
    "mmu_notifier_get": Service(
        c_void_p,
        (c_void_p, c_void_p, c_void_p),
        over=(1 << 64) - 22,  # ERR_PTR(-EINVAL)
    ),
    "mmu_notifier_put": _ON,
    "mmu_notifier_synchronize": Service(None, ()),
    "hmm_range_fault_unlocked_timeout": Service(c_int, (c_void_p, c_uint64), over=-14),
    "device_test_young": Service(c_bool, (c_void_p, c_uint, c_uint64)),
    "device_clear_young": Service(c_bool, (c_void_p, c_uint, c_uint64)),
    "device_share": Service(None, (c_void_p, c_void_p)),
    "device_unshare": _ON,
    "handle_mm_fault": Service(c_int, (c_void_p, c_uint64, c_bool), over=-14),
    "pte_mksoft_dirty": Service(None, (c_void_p, c_uint64)),
}
"""Services in the order of `struct lw_kernel`."""


PROTOTYPES: dict[str, Prototype] = {
    name: ctypes.PYFUNCTYPE(service.result, *service.arguments)
    for name, service in SERVICES.items()
}
"""By service, what makes a function pointer of a function of Python."""


class KernelStruct(ctypes.Structure):
    """`struct lw_kernel`."""

    _fields_ = (
        ("abi_version", c_uint32),
        ("size", c_uint32),
        ("page_size", c_uint64),
        *PROTOTYPES.items(),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "lw_device": DeviceStruct,
    "lw_job": JobStruct,
    "mmu_notifier_range": RangeStruct,
    "mmu_interval_notifier": NotifierStruct,
    "mmu_notifier": NotifierStruct,
    "mmu_interval_notifier_ops": IntervalOpsStruct,
    "mmu_interval_notifier_finish": FinishStruct,
    "mmu_notifier_ops": NotifierOpsStruct,
    "hmm_range": HmmRangeStruct,
    "migrate_vma": MigrateStruct,
    "vm_area_struct": VmaStruct,
    "vm_fault": FaultStruct,
    "lw_driver": DriverStruct,
    "lw_kernel": KernelStruct,
}
"""By name in the header."""
