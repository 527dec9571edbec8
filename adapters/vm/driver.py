"""Changed drivers: compiled against the kernel's build, to take the place of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..candidate import CandidateError
from .places import Kernel, digest
from .run import run_logged
from .spec import MachineSpec

__all__ = ["module_of"]

_NAME = "test_hmm"
_KBUILD = """\
obj-m := test_hmm.o
ccflags-y := -I{tree}/lib -fmacro-prefix-map={folder}/=
"""


def module_of(spec: MachineSpec, kernel: Kernel) -> Path | None:
    """The module that a spec asks for, compiled unless it is; None for the kernel's own."""
    if spec.driver is None:
        return spec.module
    headers = sorted(spec.driver.parent.glob("*.h"))
    try:
        contents = [path.read_bytes() for path in (spec.driver, *headers)]
    except OSError as error:
        raise CandidateError(f"{error.filename}: {error.strerror}") from None
    name = digest(_KBUILD, *contents, *(path.name for path in headers))
    module = kernel.folder / "drivers" / name / f"{_NAME}.ko"
    if not module.exists():
        with kernel.changed() as lock:
            if not module.exists():
                _compile(spec.driver, headers, kernel, module, lock)
    return module


def _compile(driver: Path, headers: list[Path], kernel: Kernel, module: Path, lock: int) -> None:
    """Compile a driver in a folder of its own; a folder that is not whole has no module."""
    folder = module.parent.with_suffix(".part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = module.parent.with_suffix(".log")
    log.unlink(missing_ok=True)
    for header in headers:
        shutil.copy(header, folder)
    shutil.copy(driver, folder / f"{_NAME}.c")
    tree = kernel.build / "source"
    (folder / "Kbuild").write_text(_KBUILD.format(tree=tree.resolve(), folder=folder))
    command = ["make", "-C", str(kernel.build), f"M={folder}"]
    run_logged(f"compile {driver}", command, log, keep=(lock,))
    shutil.rmtree(module.parent, ignore_errors=True)
    folder.rename(module.parent)
