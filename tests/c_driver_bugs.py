"""Bugs of the driver mutants, as changes of the text of the worked drivers in C."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["C_BUGS", "CBug", "Change"]


class Change(NamedTuple):
    """A text, which the source has exactly once, and what stands there instead."""

    old: str
    new: str


class CBug(NamedTuple):
    """A worked driver, its changes, and the allocation that fails in the witness (0: none)."""

    driver: str
    changes: tuple[Change, ...]
    allocation: int = 0

    def apply(self, source: str) -> str:
        """The source with the bug; `ValueError` if it is not the one that the changes are for."""
        for old, new in self.changes:
            if source.count(old) != 1:
                raise ValueError(f"{source.count(old)} times in {self.driver}.c, not once: {old!r}")
            source = source.replace(old, new)
        return source


_CHECK = """\
    mutex_lock(&mirror->lock);
    if (mmu_interval_read_retry(&mirror->notifier, range.notifier_seq)) {
        mutex_unlock(&mirror->lock);
        goto again;
    }
"""
_COLLECT = """\
again:
    pfn = 0;
    answer = mirror_collect(mirror, &range);
    if (answer)
        return answer;
    mutex_lock(&mirror->lock);
"""
_BUFFER_CHECK = """\
    answer = buffer_collect(buffer, &range);
    if (answer)
        return answer;
    mutex_lock(lock);
    if (mmu_interval_read_retry(&buffer->notifier, range.notifier_seq)) {
        mutex_unlock(lock);
        goto again;
    }
    answer = buffer_install(buffer);
"""
_WRITABLE = "hmm_pfn_to_page(pfn), pfn & HMM_PFN_WRITE);"

C_BUGS: dict[str, CBug] = {
    "start-only": CBug(
        "faulting",
        (Change("    mmu_interval_set_seq(notifier, cur_seq);\n", "    (void)cur_seq;\n"),),
    ),
    "seq-after-lookup": CBug(
        "faulting",
        (
            Change(
                _COLLECT,
                """\
    bool writable;

again:
    pfn = 0;
    answer = mirror_collect(mirror, &range);
    if (answer)
        return answer;
    writable = pfn & HMM_PFN_WRITE;
    range.default_flags = HMM_PFN_REQ_FAULT;
    answer = mirror_collect(mirror, &range);
    if (answer)
        return answer;
    mutex_lock(&mirror->lock);
""",
            ),
            Change(_WRITABLE, "hmm_pfn_to_page(pfn), writable);"),
        ),
    ),
    "check-outside-lock": CBug(
        "faulting",
        (
            Change(
                _CHECK,
                """\
    if (mmu_interval_read_retry(&mirror->notifier, range.notifier_seq))
        goto again;
    mutex_lock(&mirror->lock);
""",
            ),
        ),
    ),
    "stale-input-on-retry": CBug(
        "faulting",
        (
            Change(
                "    int answer;\n\nagain:\n    pfn = 0;\n    answer = mirror_collect(",
                "    int answer;\n\n    pfn = 0;\nagain:\n    answer = mirror_collect(",
            ),
            Change(
                "        .default_flags = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0),\n",
                "        .default_flags = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0),\n"
                "        .pfn_flags_mask = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,\n",
            ),
        ),
    ),
    "dma-map-left": CBug(
        "faulting",
        (
            Change(
                "            dma_unmap_page(device, mirror->entries[index]);\n",
                "            ; /* later */\n",
            ),
        ),
    ),
    "lock-kept-on-refusal": CBug(
        "refcounting",
        (
            Change(
                "    if (buffer->in_flight) {\n        mutex_unlock(lock);\n",
                "    if (buffer->in_flight) {\n",
            ),
        ),
    ),
    "sleep-in-atomic": CBug(
        "faulting",
        (
            Change(
                "    if (mmu_notifier_range_blockable(range))\n        mutex_lock(&mirror->lock);\n"
                "    else if (!mutex_trylock(&mirror->lock))\n        return false;\n",
                "    mutex_lock(&mirror->lock);\n",
            ),
        ),
    ),
    "register-under-own-lock": CBug(
        "refcounting",
        (
            Change(
                _BUFFER_CHECK,
                """\
    mutex_lock(lock);
    answer = buffer_collect(buffer, &range);
    if (!answer)
        answer = buffer_install(buffer);
""",
            ),
            Change("again:\n    mutex_lock(lock);", "    mutex_lock(lock);"),
        ),
    ),
    "first-chunk-only": CBug(
        "faulting",
        (
            Change(
                "moved += mirror_migrate_page(mirror, mirror->mm, address, direction, NULL) > 0;",
                "moved += mirror_migrate_page(mirror, mirror->mm, start, direction, NULL) >= 0;",
            ),
        ),
    ),
    "cow-break-forgotten": CBug(
        "faulting",
        (
            Change(
                _CHECK,
                """\
    mutex_lock(&mirror->lock);
    if (mmu_interval_read_retry(&mirror->notifier, range.notifier_seq)) {
        mutex_unlock(&mirror->lock);
        range.default_flags = HMM_PFN_REQ_FAULT;
        goto again;
    }
""",
            ),
            Change(_WRITABLE, "hmm_pfn_to_page(pfn), write);"),
        ),
    ),
    "partial-fault-unwind": CBug(
        "refcounting",
        (
            Change(
                "        if (!buffer->pages[i]) {\n            buffer_zap(buffer);\n",
                "        if (!buffer->pages[i]) {\n            buffer->pages[0] = 0;\n",
            ),
        ),
        allocation=6,
    ),
    "eagain-forever": CBug(
        "faulting",
        (
            Change(
                _COLLECT,
                """\
    pfn = 0;
    answer = mirror_collect(mirror, &range);
    if (answer)
        return answer;
again:
    mutex_lock(&mirror->lock);
""",
            ),
        ),
    ),
    "trylock-spin": CBug(
        "faulting",
        (
            Change(
                "        if (moved <= 0)\n            cond_resched();\n", "        (void)moved;\n"
            ),
        ),
    ),
    "full-device-spin": CBug(
        "faulting",
        (
            Change(
                "    if (!target)\n        return NULL;\n    if (!source) {\n",
                "    while (!target) {\n        cond_resched();\n"
                "        target = to_device ? alloc_device_page(mirror->device) : alloc_page();\n"
                "    }\n    if (!source) {\n",
            ),
        ),
    ),
}
"""By id of the mutant."""
