"""Specs of candidates in the virtual machine, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.candidate import CandidateError
from adapters.registry import Reach, known, reach_of
from adapters.vm import holder, tools
from adapters.vm.spec import MachineSpec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("test_hmm.c", "test_hmm.ko"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "reach"),
    [
        ("linux:hmm", Reach.MACHINE),
        ("linux:hmm,flavour=debug", Reach.MACHINE),
        ("linux:hmm/kvm", Reach.MACHINE),
        ("linux:hmmm", Reach.EXECUTABLE),
        ("linux:process_vm", Reach.EXECUTABLE),
    ],
)
def test_reach(text: str, reach: Reach) -> None:
    assert reach_of(text) is reach


def test_all_that_can_be_said(folder: Path) -> None:
    driver, module = folder / "test_hmm.c", folder / "test_hmm.ko"
    text = "linux:hmm,driver=test_hmm.c,flavour=debug,cpus=2,nodes=1,merge=off"
    assert MachineSpec.parse(text) == MachineSpec(text, "hmm", "debug", driver, None, 2, 1, False)
    text = "linux:hmm,module=test_hmm.ko"
    assert MachineSpec.parse(text) == MachineSpec(text, "hmm", "lean", None, module, 1)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("linux:hmm/gpu", "no mirror 'linux:hmm/gpu' in the machine; there are linux:hmm, linux:"),
        ("linux:hmm/hmm", "no mirror 'linux:hmm/hmm'"),
        ("linux:hmm/", "no mirror 'linux:hmm/'"),
        ("linux:hmm/kvm,driver=test_hmm.c", "driver is for linux:hmm alone"),
        ("linux:hmm/kvm,nodes=1,module=test_hmm.ko", "module, nodes is for linux:hmm alone"),
        ("linux:hmm,flavor=debug", "'flavor=debug': a spec is linux:hmm[,"),
        ("linux:hmm,flavour", "'flavour': a spec is"),
        ("linux:hmm,cpus=1,cpus=2", "'cpus=2': a spec is"),
        ("linux:hmm,flavour=fast", "no flavour 'fast'; there are lean, debug"),
        ("linux:hmm,cpus=0", "cpus is a number from 1 to 8"),
        ("linux:hmm,cpus=\u0662", "cpus is a number from 1 to 8"),
        ("linux:hmm,nodes=3", "nodes is a number from 1 to 2"),
        ("linux:hmm,merge=no", "merge is on or off"),
        ("linux:hmm,driver=gone.c", "no such file: gone.c"),
        ("linux:hmm,driver=test_hmm.ko", "driver is a file that ends in .c"),
        ("linux:hmm,module=test_hmm.c", "module is a file that ends in .ko"),
        ("linux:hmm,driver=test_hmm.c,module=test_hmm.ko", "exclude each other"),
    ],
)
def test_what_makes_no_sense(text: str, problem: str) -> None:
    with pytest.raises(CandidateError) as caught:
        MachineSpec.parse(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


class TestLacking:
    def test_programs_that_are_not_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(holder, "unsuited", lambda: None)
        monkeypatch.delenv("CC", raising=False)
        assert tools.lacking(to_build=False) == ["qemu-system-x86"]
        assert {"flex", "bison", "bc", "cpio", "xz-utils", "gcc", "libelf-dev"} <= set(
            tools.lacking(to_build=True)
        )
        assert holder.lacks() == "needs qemu-system-x86: apt-get install qemu-system-x86"

    def test_a_header_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tools, "_HEADERS", {"no/such/header.h": "libno-dev"})
        assert "libno-dev" in tools.lacking(to_build=True)

    def test_a_machine_that_is_not_built(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(holder, "unsuited", lambda: None)
        monkeypatch.setattr(holder, "lacking", lambda **_: [])
        assert holder.lacks() == "the lean machine is not built: lastwriter vm build"
        assert str(holder.lacks("debug")).endswith(": lastwriter vm build --flavour debug")
        line = next(each for each in known() if each.spec == "linux:hmm")
        assert (line.available, line.reason) == (False, holder.lacks())

    def test_another_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "riscv64")
        assert holder.lacks() == "the virtual machine is for x86-64 Linux, this is riscv64"
