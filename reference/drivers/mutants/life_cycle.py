"""Class 3: the life cycle of a subscription."""

from __future__ import annotations

import errno

from reference.drivers.refcounting import Buffer, RefcountingDriver

from .mutant import plant


@plant(
    "notify-before-ready",
    title="a callback runs before the buffer that it is about is set up",
    seen_in="mlx5 ODP 2019-10-09 14/15; UCX 4cb8f4260c",
    base="refcounting",
    rule="R4",
    harm="R4",
    minimal=4,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 r page=0 pages=1
        discard p0 page=0 pages=1
    """,
    switches=[("d0", 2, 3, "p0")],
)
class _NotifyBeforeReady(RefcountingDriver):
    def register(self, key: int, start: int, end: int, write: bool) -> int:
        if key in self.buffers:
            return -errno.EBUSY
        if self.mm is None:
            return -errno.ESRCH
        buffer = Buffer.__new__(Buffer)
        notifier = self.kernel.mmu_interval_notifier_insert(buffer, self.mm, start, end - start)
        if isinstance(notifier, int):
            return notifier
        buffer.__init__(self, key, start, end, write)  # type: ignore[misc]
        buffer.notifier = notifier
        answer = self.validate(buffer)
        if answer:
            self.destroy(buffer)
            return answer
        self.buffers[key] = buffer
        return 0


@plant(
    "remove-returns-early",
    title="a buffer is freed while a callback still uses it",
    seen_in="mmu_interval_notifier_remove 319561669a59",
    base="refcounting",
    rule="R4",
    harm="R4",
    minimal=3,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 r page=0 pages=1
        unregister d0 key=1
        discard p0 page=0 pages=1
    """,
    switches=[("d0", 3, 5, "p0")],
)
class _RemoveReturnsEarly(RefcountingDriver):
    def destroy(self, buffer: Buffer) -> None:
        self.lock.lock()
        self.zap(buffer)
        self.lock.unlock()
        del buffer.driver
        self.kernel.mmu_interval_notifier_remove(buffer.notifier)
