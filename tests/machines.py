"""What stands in for a kernel's source and for QEMU, so that machines are quickly made."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

__all__ = ["MAKEFILE", "fake_qemu", "tarball"]

QEMU = Path(__file__).with_name("fake_qemu.py")
MAKEFILE = """\
B = $(O)
tinyconfig:
\techo CONFIG_TINY=y >$(B)/.config
\tln -sfn $(CURDIR) $(B)/source
\tprintf 'modules:\\n\\tsh $(CURDIR)/module.sh $$(M)\\n' >$(B)/Makefile
olddefconfig:
\tgrep -v '^# [a-z]' $(B)/.config >$(B)/.config.new
\tmv $(B)/.config.new $(B)/.config
vmlinux:
\t@echo '  CC      one.o'
\t@echo '  LD      vmlinux'
\tcp source.txt $(B)/vmlinux
modules: vmlinux
\tmkdir -p $(B)/lib && touch $(B)/lib/test_hmm.ko
"""
MERGE = """\
# -m -O FOLDER CONFIG FRAGMENT
cat "$5" >>"$4"
"""
MODULE = """\
cd "$1"
if grep error test_hmm.c >&2; then exit 1; fi
cat test_hmm.c *.h >test_hmm.ko
"""


def tarball(folder: Path, version: str = "6.12", **changes: str) -> Path:
    """A source, with these files otherwise: `Makefile="..."`."""
    files = {
        "Makefile": MAKEFILE,
        "scripts/kconfig/merge_config.sh": MERGE,
        "module.sh": MODULE,
        "source.txt": version,
        "drivers/gpu/big/unused.c": "",
        "drivers/gpu/Kconfig": "",
    }
    tree = folder / f"linux-{version}"
    for name, text in (files | changes).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    path = folder / f"linux-{version}.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        archive.add(tree, tree.name)
    return path


def fake_qemu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a QEMU on the PATH that has no machine."""
    qemu = folder / "bin" / "qemu-system-x86_64"
    qemu.parent.mkdir()
    qemu.write_text(f'#!/bin/sh\nexec {sys.executable} -P {QEMU} "$@"\n')
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{qemu.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return qemu
