"""A shared library with a driver: loading it, checking it, and a fresh copy for each run."""

from __future__ import annotations

import ctypes
from _ctypes import dlclose
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adapters.candidate import CandidateError
from reference.host.host import Host

from .gate import Gate
from .handles import Handles
from .layouts import ABI_VERSION, CALLBACKS, KEYED, MODELS, PAGE_FAULTS, DriverStruct
from .structs import CFinish, NotifierOperations

if TYPE_CHECKING:
    from .driver import CDriver

__all__ = ["Claims", "Library"]

_GET = "lw_driver_get"
_LONGEST_NAME = 60
_TOGETHER = {
    "register_range": ("unregister_range",),
    "unregister_range": ("register_range",),
    "migrate_to_device": ("migrate_to_system", "migrate_to_ram"),
    "migrate_to_system": ("migrate_to_device",),
}
"""Callbacks, each with those without which it makes no sense."""


class Claims(NamedTuple):
    """What a library says of its driver."""

    name: str
    model: str
    keyed: bool
    page_faults: bool
    callbacks: frozenset[str]


class _Run(NamedTuple):
    host: Host
    handles: Handles
    callbacks: dict[str, Callable[..., Any]]


class Library:
    """One library.  Its static variables are as new at the start of every run."""

    def __init__(self, path: Path, file: Path) -> None:
        """`path` is what the user calls it, `file` the shared library; `CandidateError`."""
        self.path = path
        self._file = file.resolve()
        self.gate = Gate()
        self.drivers: dict[int, CDriver] = {}
        """The drivers of the run, by the address of their `struct lw_device`."""
        self._operations: dict[int, NotifierOperations] = {}
        """Those of `mmu_notifier_get`, by address."""
        self.waiting: dict[int, CFinish] = {}
        """By address, what waits for the second pass of an invalidation."""
        self._loaded: ctypes.PyDLL | None = None
        self._run: _Run | None = None
        self.claims = self._claims(self._load())

    def join(self, host: Host, driver: CDriver, address: int) -> _Run:
        """A device takes part in its host's run, of which there can be one at a time."""
        if self._run is None or self._run.host is not host:
            self._run = self._begin(host)
        self.drivers[address] = driver
        return self._run

    def _begin(self, host: Host) -> _Run:
        if self._run is not None and self.gate.visits and not self._run.host.tasks.over:
            raise RuntimeError(f"{self.path}: one run begins inside another")
        self.gate.visits = 0
        self.drivers.clear()
        self._operations.clear()
        self.waiting.clear()
        self.gate.table.page_size = host.geometry.page_size
        struct = self._load()
        callbacks = {name: CALLBACKS[name](getattr(struct, name)) for name in self.claims.callbacks}
        return _Run(host, Handles(), callbacks)

    def operations(self, address: int) -> NotifierOperations:
        """What stands for a `struct mmu_notifier_ops`, the same for every device."""
        found = self._operations.get(address)
        if found is None:
            found = self._operations[address] = NotifierOperations(address)
        return found

    def _load(self) -> DriverStruct:
        """Load the library anew and ask it for its driver."""
        if self._loaded is not None:
            dlclose(self._loaded._handle)
            self._loaded = None
        try:
            self._loaded = loaded = ctypes.PyDLL(str(self._file))
        except OSError as error:
            problem = " ".join(str(error).removeprefix(f"{self._file}: ").split())
            raise CandidateError(f"{self.path}: not a loadable shared library: {problem}") from None
        get = getattr(loaded, _GET, None)
        if get is None:
            raise CandidateError(f"{self.path}: does not export {_GET}, as lw_module() makes it do")
        self.gate.visit = None
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        address = get(ctypes.addressof(self.gate.table))
        if not address:
            raise CandidateError(f"{self.path}: {_GET} returns NULL")
        return self._struct(address)

    def _struct(self, address: int) -> DriverStruct:
        """The struct lw_driver there, of which only the first two fields can be relied on."""
        version, size = (ctypes.c_uint32 * 2).from_address(address)
        if version != ABI_VERSION:
            raise CandidateError(
                f"{self.path}: has driver ABI version {version}, "
                f"this lastwriter has driver ABI version {ABI_VERSION}"
            )
        if size != ctypes.sizeof(DriverStruct):
            raise CandidateError(
                f"{self.path}: its struct lw_driver has {size} bytes, "
                f"this lastwriter's has {ctypes.sizeof(DriverStruct)}"
            )
        return DriverStruct.from_address(address)

    def _claims(self, struct: DriverStruct) -> Claims:
        """What the driver says of itself, checked; `CandidateError`."""
        callbacks = frozenset(name for name in CALLBACKS if getattr(struct, name))
        if struct.model >= len(MODELS):
            raise CandidateError(f"{self.path}: {struct.model} is no sync model")
        if struct.flags & ~(KEYED | PAGE_FAULTS):
            raise CandidateError(f"{self.path}: {struct.flags:#x} has flags that there are not")
        claims = Claims(
            self._name(struct.name),
            MODELS[struct.model],
            bool(struct.flags & KEYED),
            bool(struct.flags & PAGE_FAULTS),
            callbacks,
        )
        for name, why in _needed(claims):
            if name not in callbacks:
                raise CandidateError(f"{self.path}: has no callback {name}, which {why} needs")
        if "register_range" in callbacks and not claims.keyed:
            raise CandidateError(f"{self.path}: has no LW_KEYED, which register_range needs")
        return claims

    def _name(self, text: bytes | None) -> str:
        try:
            name = (text or b"").decode()
        except UnicodeDecodeError:
            name = ""
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise CandidateError(
                f"{self.path}: its name is not 1 to {_LONGEST_NAME} printable characters"
            )
        return name


def _needed(claims: Claims) -> list[tuple[str, str]]:
    """Callbacks that a driver has to have, each with what needs it."""
    needed = [("open", "every driver"), ("close", "every driver")]
    if claims.keyed:
        needed.append(("register_range", "LW_KEYED"))
    if claims.page_faults:
        needed.append(("fault", "LW_PAGE_FAULTS"))
    for name in sorted(claims.callbacks):
        needed += [(other, name) for other in _TOGETHER.get(name, ())]
    return needed
