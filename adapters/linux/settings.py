"""Settings of the whole machine that make the kernel do more with pages, and how to undo them.

Swap on zram lets it reclaim anonymous memory, KSM merge pages, and compaction move them.  What is
to be undone is written to a file before it is done, so that whoever reads that can undo it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

__all__ = ["KSM", "Settings", "Undo"]

KSM = (
    ("smart_scan", "0"),  # it passes over pages that did not merge before
    ("pages_to_scan", "5000"),
    ("sleep_millisecs", "0"),
    ("run", "1"),
)
"""Files in the folder of KSM and what to write there: it scans until it is told to rest."""
_KSM_FOLDER = "sys/kernel/mm/ksm"
ZRAM_BYTES = 256 << 20
COMPACTION = "100"
"""How eagerly to compact in the background, 0 to 100."""
_TRIES, _SECONDS = 20, 0.05
"""How often a device is asked for that somebody else looks into (udev does), and how far apart."""
_PAGE = 4096


class Undo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing to undo: a value to write back, swap to switch off, or a device to remove."""

    path: str = ""
    """File to write to, or device to swap off."""
    value: str | None = None
    """What the file held; None for a device."""
    zram: int | None = None
    """Number of the zram device to remove; -1 if it was not known yet."""
    others: tuple[int, ...] = ()
    """Numbers of the zram devices that there were before."""


class Settings:
    """The settings, and the file with what is to be undone.

    `root` is where `proc`, `sys` and `dev` are.
    """

    def __init__(self, state: Path, root: Path = Path("/")) -> None:
        self.state = state
        self.root = root

    def switch_on(self) -> list[str]:
        """Switch all on that is off; what cannot be, and why, a line each."""
        problems = []
        for name, step in (("KSM", self._ksm), ("swap on zram", self._swap),
                           ("compaction", self._compaction)):  # fmt: skip
            try:
                step()
            except OSError as error:
                problems.append(f"no {name}: {error.strerror}")
        return problems

    def put_back(self) -> None:
        """Undo all that is to be undone, the last first; nothing if there is nothing.

        `OSError` if something could not be, which then is still in the file.
        """
        left: list[Undo] = []
        failure: OSError | None = None
        for undo in reversed(self._undos()):
            try:
                self._undo(undo)
            except OSError as error:
                left.insert(0, undo)
                failure = error
        if failure is not None:
            self._save(left)
            raise failure
        self.state.unlink(missing_ok=True)

    @property
    def changed(self) -> bool:
        """Whether there is something to undo."""
        return self.state.exists()

    @property
    def ksm(self) -> bool:
        """Whether KSM is off but for these settings."""
        switch = str(self.root / _KSM_FOLDER / "run")
        return any(undo.path == switch for undo in self._undos())

    # What is switched on.

    def _ksm(self) -> None:
        folder = self.root / _KSM_FOLDER
        if self._read(folder / "run") == "1":
            return
        for name, value in KSM:
            try:
                self._write(folder / name, value)
            except OSError:
                if name == "run":
                    raise

    def _compaction(self) -> None:
        self._write(self.root / "proc/sys/vm/compaction_proactiveness", COMPACTION)

    def _swap(self) -> None:
        if len((self.root / "proc/swaps").read_text("ascii").splitlines()) > 1:
            return  # below the heading
        self._remember(Undo(zram=-1, others=tuple(sorted(self._zrams()))))
        try:
            number = int(self._read(self.root / "sys/class/zram-control/hot_add"))
        except OSError:
            self._forget()
            raise
        self._forget()
        self._remember(Undo(zram=number))
        (self.root / f"sys/block/zram{number}/disksize").write_text(str(ZRAM_BYTES))
        device = self.root / f"dev/zram{number}"
        _make_swap(device)
        self._remember(Undo(path=str(device)))
        _swap_on(device)

    def _zrams(self) -> Iterator[int]:
        for path in (self.root / "sys/block").glob("zram*"):
            yield int(path.name.removeprefix("zram"))

    @staticmethod
    def _read(path: Path) -> str:
        return path.read_text("ascii").strip()

    def _write(self, path: Path, value: str) -> None:
        before = self._read(path)
        if before == value:
            return
        self._remember(Undo(path=str(path), value=before))
        try:
            path.write_text(value, "ascii")
        except OSError:
            self._forget()
            raise

    # What is to be undone.

    def _undos(self) -> list[Undo]:
        try:
            return msgspec.json.decode(self.state.read_bytes(), type=list[Undo])
        except FileNotFoundError:
            return []
        except msgspec.MsgspecError:
            return []  # it was never written in full, so nothing was done after it

    def _save(self, undos: list[Undo]) -> None:
        new = self.state.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(undos))
        new.replace(self.state)

    def _remember(self, undo: Undo) -> None:
        self._save([*self._undos(), undo])

    def _forget(self) -> None:
        self._save(self._undos()[:-1])

    def _undo(self, undo: Undo) -> None:
        if undo.value is not None:
            Path(undo.path).write_text(undo.value, "ascii")
        elif undo.path:
            _swap_off(Path(undo.path))
        elif undo.zram == -1:
            for number in set(self._zrams()) - set(undo.others):
                if self._read(self.root / f"sys/block/zram{number}/initstate") == "0":
                    self._remove_zram(number)
        elif undo.zram is not None:
            self._remove_zram(undo.zram)

    def _remove_zram(self, number: int) -> None:
        block = self.root / f"sys/block/zram{number}"
        if block.exists():
            _when_free(lambda: (block / "reset").write_text("1", "ascii"))
            (self.root / "sys/class/zram-control/hot_remove").write_text(str(number), "ascii")


def _make_swap(device: Path) -> None:
    """Write the header that says that a device is swap space (include/linux/swap.h)."""
    header = bytearray(_PAGE)
    struct.pack_into("=III", header, 1024, 1, ZRAM_BYTES // _PAGE - 1, 0)
    header[-10:] = b"SWAPSPACE2"
    with device.open("r+b", buffering=0) as file:
        file.write(header)
        os.fsync(file.fileno())


def _swap_on(device: Path) -> None:
    _call("swapon", os.fsencode(device), 0)


def _swap_off(device: Path) -> None:
    """Nothing if it is off already."""
    try:
        _call("swapoff", os.fsencode(device))
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.EINVAL}:
            raise


def _when_free(action: Callable[[], object]) -> None:
    """Do it; while the device is busy, again a few times."""
    for left in reversed(range(_TRIES)):
        try:
            action()
        except OSError as error:
            if error.errno != errno.EBUSY or not left:
                raise
            time.sleep(_SECONDS)
        else:
            return


def _call(name: str, *arguments: bytes | int) -> None:
    """A function of the C library that gives -1 with errno."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
