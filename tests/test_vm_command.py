"""`lastwriter vm`, with a source and a QEMU that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from machines import MAKEFILE, fake_qemu, tarball
from test_worker import MISBEHAVING

from adapters.vm import build as building
from adapters.vm import initramfs as archives
from adapters.vm.places import root
from conformance.command import main


@pytest.fixture(autouse=True)
def _fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(building, "unsuited", lambda: None)
    monkeypatch.setattr(building, "lacking", lambda **_: [])
    fake_qemu(tmp_path, monkeypatch)
    monkeypatch.setenv("FAKE_CANDIDATE", f"{MISBEHAVING}:Prints")
    agent = tmp_path / "agent.c"
    agent.write_text("int main(void) { return 0; }\n")
    monkeypatch.setattr(archives, "sources", lambda _: [agent])


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["vm", *arguments])
    return int(ended.value.code or 0)


def test_build_status_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the lean machine is not built: lastwriter vm build"

    assert run("build", "--source", str(tarball(tmp_path))) == 0
    steps = capsys.readouterr().out.splitlines()
    assert steps[:4] == [
        "unpack the source ...",
        "configure ...",
        "compile the kernel ...",
        "boot it once ...",
    ]
    assert steps[4].startswith("6.12, lean: ready after ")
    assert len(list(root().glob("lean/states/*"))) == 1

    assert run("build", "--source", str(tmp_path / "linux-6.12.tar.xz")) == 0
    assert "compile the kernel ..." not in capsys.readouterr().out

    assert run("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the lean machine: 6.12, built 20")
    assert lines[1] == "the debug machine is not built: lastwriter vm build --flavour debug"

    assert run("clean") == 0
    assert capsys.readouterr().out == f"removed what was in {root()}\n"
    assert not list(root().glob("kernels/*"))


def test_a_build_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tarball(tmp_path, Makefile=MAKEFILE.replace("cp source.txt", "cp nothing"))
    assert run("build", "--source", str(source)) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("lastwriter: cannot compile the kernel: make exited with status 2; log")
    assert any("cannot stat 'nothing'" in line for line in rest)


def test_a_machine_that_does_not_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_CONTROL", "no driver")
    assert run("build", "--source", str(tarball(tmp_path))) == 2
    error = capsys.readouterr().err
    assert error.startswith("lastwriter: the machine does not come up: no driver booted the kernel")
