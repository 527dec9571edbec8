"""The mirrors that run in the virtual machine: what the agent of each is made of, and needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

__all__ = ["DEFAULT", "MIRRORS", "Mirror"]


@dataclass(frozen=True)
class Mirror:
    """A mirror in the machine.  Its agent is the only one that its machine boots into."""

    files: tuple[str, ...]
    """C files in `adapters/linux`, beside those that all mirrors share."""
    modules: tuple[str, ...] = ()
    """Modules of the kernel, by their places in its build folder, as they have to be loaded."""
    processor: str = "qemu64"
    """As QEMU names it."""

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of the modules' files, without what they end in."""
        return tuple(PurePath(path).stem for path in self.modules)


DEFAULT = "hmm"
MIRRORS: Mapping[str, Mirror] = {
    "hmm": Mirror(("hmm", "hmm_files"), ("lib/test_hmm.ko",)),
    "kvm": Mirror(
        ("kvm", "kvm_guest"),
        ("virt/lib/irqbypass.ko", "arch/x86/kvm/kvm.ko", "arch/x86/kvm/kvm-amd.ko"),
        "qemu64,+svm,+npt",
    ),
    "gup": Mirror(("gup", "regions")),
    "udmabuf": Mirror(("udmabuf", "regions")),
    "iommufd": Mirror(("iommufd", "regions"), ("drivers/iommu/iommufd/iommufd.ko",)),
    "rxe": Mirror(
        ("rxe", "rxe_setup", "rxe_verbs", "regions"),
        (
            "crypto/crypto.ko",
            "crypto/crypto_algapi.ko",
            "crypto/crypto_hash.ko",
            "crypto/crc32_generic.ko",
            "net/ipv4/udp_tunnel.ko",
            "drivers/infiniband/core/ib_core.ko",
            "drivers/infiniband/core/ib_uverbs.ko",
            "drivers/infiniband/sw/rxe/rdma_rxe.ko",
        ),
    ),
}
"""By name: `linux:hmm` is the first, and `linux:hmm/NAME` each of the others."""
