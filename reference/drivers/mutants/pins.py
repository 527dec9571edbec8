"""Class 10: pages that are pinned."""

from __future__ import annotations

from reference.drivers.counting import CountingDriver
from reference.host.space import AddressSpace
from reference.protocol import Profile

from .mutant import plant


@plant(
    "zero-page-leak",
    title="a pin taken on the zero page is never dropped",
    seen_in="vfio 873aefb376bb",
    base="counting",
    rule="W5",
    harm="",
    minimal=3,
    sequence="""
        map p0 rw page=0 pages=1
        attach d0 p0
        dread d0 page=0 offset=0 length=8
    """,
    profile=Profile.STRICT,
)
class _ZeroPageLeak(CountingDriver):
    def populate(self, mm: AddressSpace, start: int, write: bool) -> int:
        zero = self.device.host.zero.number
        while True:
            sequence = self.invalidations.sequence
            pinned = self.kernel.pin_user_pages(mm, start, 1, write=write)
            if isinstance(pinned, int):
                return pinned
            self.lock.lock()
            again = self.invalidations.retry(sequence, start, start + self.kernel.page_size)
            answer = 0 if again else self.install(start, pinned[0], write)
            self.lock.unlock()
            # PageReserved(), which is taken to say that there is nothing to be unpinned.
            if pinned[0] != zero:
                self.kernel.unpin_user_page(pinned[0])
            if not again:
                return answer
            self.kernel.wait_event(lambda: not self.invalidations.count, "the invalidations")
