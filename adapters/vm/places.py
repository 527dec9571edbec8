"""Where the virtual machine's parts are kept, what counts as built, and who may change it.

    ~/.cache/lastwriter/vm/
        lock                 held by whoever builds or removes
        sources/ID/          an unpacked kernel source, which all flavours share
        kernels/KEY/         one kernel: its build, and what was made to boot it
        lean, debug          links to the kernel that is in use for a flavour

Whatever is made gets its name, or the file that says that it is whole, as the last step: what a
killed build leaves does not count, and the next build removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import msgspec

from ..candidate import CandidateError
from ..compiler import cache_folder

__all__ = [
    "Kernel",
    "NotBuiltError",
    "Record",
    "clean",
    "current",
    "digest",
    "fragment",
    "locked",
    "remove",
    "remove_older",
    "root",
    "size_of",
]

FORMAT = 1
"""Changes when what is kept changes its meaning."""
DONE = "done.json"


class NotBuiltError(CandidateError):
    """There is no kernel for a flavour, or it is not what would be built now."""


def root() -> Path:
    """The folder of all that belongs to virtual machines."""
    return cache_folder() / "vm"


def digest(*parts: str | bytes) -> str:
    """A short name for these inputs."""
    hashed = hashlib.blake2b(digest_size=6)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.hexdigest()


def fragment(flavour: str) -> str:
    """The options that a flavour asks for, on top of the smallest kernel."""
    folder = resources.files(__package__) / "kernel"
    names = ("base.config", f"{flavour}.config")
    return "".join((folder / name).read_text("utf-8") for name in names)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a built kernel says of itself."""

    format: int = FORMAT
    flavour: str
    version: str
    """Of the source: its package's, or the kernel's own."""
    source: str
    """The file that the source is from."""
    options: str
    """Digest of the options that were asked for."""
    built: str
    """When, as ISO 8601 in UTC."""
    seconds: float
    """How long the build took."""


class Kernel:
    """One built kernel in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = _load(folder / DONE)

    @property
    def image(self) -> Path:
        """What QEMU boots."""
        return self.build / "vmlinux"

    @property
    def build(self) -> Path:
        """The build folder, for modules to be built against."""
        return self.folder / "build"

    @property
    def name(self) -> str:
        """What identifies it: changes whenever anything in it does."""
        return self.folder.name

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keep others from removing it meanwhile."""
        with _flock(self.folder / "in-use", fcntl.LOCK_SH, "is removing it"):
            yield

    @contextlib.contextmanager
    def changed(self) -> Iterator[int]:
        """Be the only one who adds to it, after whoever does already; gives a file as `locked`."""
        with _flock(self.folder / "changing", fcntl.LOCK_EX) as file:
            yield file


def _load(path: Path) -> Record:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        raise NotBuiltError(f"no whole kernel in {path.parent}") from None
    if record.format != FORMAT:
        raise NotBuiltError(f"the kernel in {path.parent} is of another version")
    return record


def current(flavour: str) -> Kernel:
    """The kernel that is in use for a flavour; `NotBuiltError` says what to do if there is none."""
    advice = "lastwriter vm build" + (f" --flavour {flavour}" if flavour != "lean" else "")
    link = root() / flavour
    try:
        kernel = Kernel(link.resolve(strict=True))
    except (OSError, NotBuiltError):
        raise NotBuiltError(f"the {flavour} machine is not built: {advice}") from None
    if kernel.record.options != digest(fragment(flavour)):
        raise NotBuiltError(f"the {flavour} machine was built with other options: {advice}")
    return kernel


@contextlib.contextmanager
def locked() -> Iterator[int]:
    """Be the only one who builds or removes; gives a file that holds the lock while it is open.

    `CandidateError` if somebody else is at it.
    """
    root().mkdir(parents=True, exist_ok=True)
    with _flock(root() / "lock", fcntl.LOCK_EX, "is building or removing") as file:
        yield file


@contextlib.contextmanager
def _flock(path: Path, how: int, problem: str = "") -> Iterator[int]:
    """Hold a lock; `CandidateError` if somebody else does, or wait if there is no `problem`."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, how | (fcntl.LOCK_NB if problem else 0))
        except BlockingIOError:
            raise CandidateError(f"{path}: somebody else {problem}") from None
        yield file
    finally:
        os.close(file)


def remove(folder: Path) -> bool:
    """Remove a kernel or a source, unless it is in use; the lock must be held.

    It stops to count as whole first.
    """
    mark = folder / "in-use"
    try:
        with _flock(mark, fcntl.LOCK_EX, "uses it") if mark.exists() else contextlib.nullcontext():
            (folder / DONE).unlink(missing_ok=True)
            shutil.rmtree(folder)
    except CandidateError:
        return False
    return True


def clean() -> None:
    """Remove all kernels and sources; `CandidateError` if one is in use."""
    with locked():
        for flavour in [path for path in root().iterdir() if path.is_symlink()]:
            flavour.unlink()
        folders = [*root().glob("kernels/*"), *root().glob("sources/*")]
        kept = [folder for folder in folders if not remove(folder)]
    if kept:
        raise CandidateError(f"in use, and so not removed: {', '.join(map(str, kept))}")


def remove_older(folder: Path, file: Path, pattern: str) -> None:
    """Remove the files of this pattern in a folder that are older than a file.

    What differs from it only in the suffix stays: it was made with it, before or after.
    """
    newest = file.stat().st_mtime_ns
    for path in folder.glob(pattern):
        if path.stem != file.stem and path.stat().st_mtime_ns < newest:
            path.unlink(missing_ok=True)


def size_of(folder: Path) -> int:
    """Bytes on disk below a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it may just have gone
                total += os.lstat(Path(path) / name).st_blocks * 512
    return total
