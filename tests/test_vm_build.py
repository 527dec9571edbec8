"""Building the machine's kernel, with a source that is none and compiles to nothing."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machines import MAKEFILE, tarball

from adapters.candidate import CandidateError
from adapters.vm import __main__ as packages
from adapters.vm import build as building
from adapters.vm import source as sources
from adapters.vm.build import Progress, build, unmet
from adapters.vm.driver import module_of
from adapters.vm.places import (
    NotBuiltError,
    clean,
    current,
    fragment,
    locked,
    remove_older,
    root,
)
from adapters.vm.run import BuildError, run_logged
from adapters.vm.spec import MachineSpec

SECONDS = 120


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "unsuited", lambda: None)
    monkeypatch.setattr(building, "lacking", lambda **_: [])


class TestBuild:
    def test_a_build(self, tmp_path: Path) -> None:
        seen: list[Progress] = []
        kernel = build("lean", seen.append, source=tarball(tmp_path))
        assert kernel.image.read_text() == "6.12"
        assert (kernel.record.version, kernel.record.flavour) == ("6.12", "lean")
        assert current("lean").folder == kernel.folder.resolve()
        assert list(dict.fromkeys(each.step for each in seen)) == [
            "unpack the source",
            "configure",
            "compile the kernel",
        ]
        assert all(0 <= each.done <= 1 for each in seen)
        assert "CC      one.o" in (kernel.folder / "build.log").read_text()

    def test_what_no_kernel_needs_is_not_unpacked(self, tmp_path: Path) -> None:
        tree = build("lean", source=tarball(tmp_path)).build / "source"
        assert (tree / "drivers" / "gpu" / "Kconfig").exists()
        assert not (tree / "drivers" / "gpu" / "big" / "unused.c").exists()

    def test_it_is_built_once(self, tmp_path: Path) -> None:
        source = tarball(tmp_path)
        first = build("lean", source=source)
        mark = first.folder / "mark"
        mark.touch()
        assert build("lean", source=source).folder == first.folder
        assert mark.exists()

    def test_flavours_share_a_source(self, tmp_path: Path) -> None:
        source = tarball(tmp_path)
        lean, debug = build("lean", source=source), build("debug", source=source)
        assert lean.folder != debug.folder
        assert current("lean").name != current("debug").name
        assert len(list((root() / "sources").iterdir())) == 1
        assert "CONFIG_PROVE_LOCKING=y" in (debug.build / ".config").read_text().splitlines()

    def test_another_source_takes_its_place(self, tmp_path: Path) -> None:
        old = build("lean", source=tarball(tmp_path))
        new = build("lean", source=tarball(tmp_path, "6.13.2"))
        assert current("lean").record.version == "6.13.2" == new.image.read_text()
        assert not old.folder.exists()
        assert len(list(root().glob("sources/*"))) == 1

    def test_what_is_in_use_stays(self, tmp_path: Path) -> None:
        old = build("lean", source=tarball(tmp_path))
        with old.used():
            build("lean", source=tarball(tmp_path, "6.13.2"))
            assert old.image.exists()
            assert (old.build / "source" / "Makefile").exists()
        build("lean", source=tarball(tmp_path, "6.13.3"))
        assert not old.folder.exists()

    def test_other_options_are_another_kernel(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build("lean", source=tarball(tmp_path))
        monkeypatch.setattr("adapters.vm.places.fragment", lambda _: "CONFIG_MORE=y\n")
        with pytest.raises(NotBuiltError, match=r"built with other options: lastwriter vm build$"):
            current("lean")


def test_what_is_older_goes_but_for_what_was_made_with_it(tmp_path: Path) -> None:
    # By seconds of age; what packs an archive writes to its log before and after.
    ages = {
        "hmm-old.cpio": 9,
        "hmm-old.log": 9,
        "kvm-old.cpio": 9,
        "hmm-new.log": 2,
        "hmm-new.cpio": 1,
    }
    for name, age in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    remove_older(tmp_path, tmp_path / "hmm-new.cpio", "hmm-*")
    assert {path.name for path in tmp_path.iterdir()} == {
        "hmm-new.cpio",
        "hmm-new.log",
        "kvm-old.cpio",
    }
    os.utime(tmp_path / "hmm-new.log", (1000, 1000))
    remove_older(tmp_path, tmp_path / "hmm-new.log", "hmm-*")
    assert (tmp_path / "hmm-new.cpio").exists()


class TestFailures:
    def test_a_step_that_fails(self, tmp_path: Path) -> None:
        broken = MAKEFILE.replace("cp source.txt", "@echo mm/memory.c:1: error: no luck; false;")
        with pytest.raises(BuildError) as caught:
            build("lean", source=tarball(tmp_path, Makefile=broken))
        first, *rest = str(caught.value).splitlines()
        log = next((root() / "kernels").glob("lean-*/build.log"))
        assert first == f"cannot compile the kernel: make exited with status 2; log: {log}"
        assert "mm/memory.c:1: error: no luck" in rest
        assert len(rest) <= 12

    def test_what_failed_does_not_count(self, tmp_path: Path) -> None:
        broken = MAKEFILE.replace("cp source.txt", "cp nothing")
        with pytest.raises(BuildError):
            build("lean", source=tarball(tmp_path, Makefile=broken))
        with pytest.raises(NotBuiltError, match="the lean machine is not built"):
            current("lean")

    def test_options_that_were_dropped(self, tmp_path: Path) -> None:
        forgetful = MAKEFILE.replace("-v ", "-v -e CONFIG_SWAP= -e ")
        with pytest.raises(BuildError, match=r"linux-6.12.tar.xz does not do CONFIG_SWAP=y; log: "):
            build("lean", source=tarball(tmp_path, Makefile=forgetful))

    def test_a_file_that_is_no_tarball(self, tmp_path: Path) -> None:
        path = tmp_path / "linux-6.12.tar.xz"
        path.write_bytes(b"no tarball")
        with pytest.raises(BuildError, match="cannot unpack the source: tar exited"):
            build("lean", source=path)

    def test_no_source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(CandidateError, match=r"--source .*gone: no such file"):
            build("lean", source=tmp_path / "gone")
        monkeypatch.setattr(sources, "_FOLDER", tmp_path)
        monkeypatch.setattr(sources, "lacking", lambda **_: [])
        with pytest.raises(CandidateError, match=r"^needs linux-source-6.12: apt-get install lin"):
            build("lean")

    def test_the_newest_source_is_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "_FOLDER", tmp_path)
        for version in ("6.1", "6.12", "6.9", "6.16"):
            (tmp_path / f"linux-source-{version}.tar.xz").touch()
        assert sources.find_source().path.name == "linux-source-6.16.tar.xz"

    def test_packages_that_are_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "lacking", lambda **_: ["flex", "bc"])
        monkeypatch.setattr(sources, "find_source", lambda: None)
        with pytest.raises(CandidateError, match=r"^needs flex, bc: apt-get install flex bc$"):
            build("lean")

    def test_packages_that_are_missing_are_printed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(packages, "unsuited", lambda: None)
        monkeypatch.setattr(packages, "needed", lambda: ["flex", "bc"])
        assert packages.main() == 0
        assert capsys.readouterr().out == "flex\nbc\n"
        monkeypatch.setattr(packages, "unsuited", lambda: "not here")
        assert packages.main() == 3
        assert capsys.readouterr().out == "not here\n"

    def test_what_is_built_needs_no_turn(self, tmp_path: Path) -> None:
        source = tarball(tmp_path)
        kernel = build("lean", source=source)
        with locked():
            assert build("lean", source=source).folder == kernel.folder

    def test_one_build_at_a_time(self, tmp_path: Path) -> None:
        with locked(), pytest.raises(CandidateError, match="somebody else is building"):
            build("lean", source=tarball(tmp_path))

    def test_an_interruption_ends_the_compiler(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"

        def stop() -> None:
            if pid.exists() and pid.read_text():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_logged("wait", ["sh", "-c", f"echo $$ >{pid}; sleep 1000"], tmp_path / "log", stop)
        assert gone(int(pid.read_text()))


def test_a_killed_build_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """SIGKILL in the middle: the compiler is gone, the lock free, and the next one builds anew."""
    pid = tmp_path / "pid"
    slow = MAKEFILE.replace("cp source.txt", f"echo $$$$ >{pid}; sleep 1000; cp source.txt")
    source = tarball(tmp_path, Makefile=slow)
    script = (
        "import sys; from pathlib import Path; from adapters.vm import build\n"
        "build.unsuited = lambda: None; build.lacking = lambda **_: []\n"
        "build.build('lean', source=Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", script, source], start_new_session=True) as suite:
        await_text(pid)
        suite.kill()
    assert gone(int(pid.read_text()))
    await_lock(root() / "lock")
    with pytest.raises(NotBuiltError):
        current("lean")
    kernel = build("lean", source=tarball(tmp_path))
    assert kernel.image.exists()
    assert len(list((root() / "kernels").iterdir())) == 1


def await_text(path: Path) -> None:
    end = time.monotonic() + SECONDS
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)


def await_lock(path: Path) -> None:
    """Wait until nobody holds a lock: whatever the compiler had begun ends a moment after it."""
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def gone(pid: int) -> bool:
    """Whether a process ends; it was killed already."""
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([file], [], [], SECONDS)[0])
    finally:
        os.close(file)


class TestClean:
    def test_all_is_removed(self, tmp_path: Path) -> None:
        build("lean", source=tarball(tmp_path))
        clean()
        assert {path.name for path in root().iterdir()} == {"kernels", "lock", "sources"}
        assert not list(root().glob("*/*"))

    def test_not_what_is_in_use(self, tmp_path: Path) -> None:
        kernel = build("lean", source=tarball(tmp_path))
        with kernel.used(), pytest.raises(CandidateError, match=f"not removed: {kernel.folder}"):
            clean()
        assert kernel.image.exists()


class TestDrivers:
    def test_a_driver_is_compiled_once(self, tmp_path: Path) -> None:
        kernel = build("lean", source=tarball(tmp_path))
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / "test_hmm.c").write_text("driver\n")
        (folder / "mine.h").write_text("header\n")
        spec = MachineSpec.parse(f"linux:hmm,driver={folder / 'test_hmm.c'}")
        module = module_of(spec, kernel)
        assert module is not None
        assert module.read_text() == "driver\nheader\n"
        (kernel.build / "Makefile").unlink()
        assert module_of(spec, kernel) == module

    @pytest.mark.parametrize("name", ["test_hmm.c", "mine.h"])
    def test_a_change_is_compiled(self, name: str, tmp_path: Path) -> None:
        kernel = build("lean", source=tarball(tmp_path))
        for file in ("test_hmm.c", "mine.h"):
            (tmp_path / file).write_text("one\n")
        spec = MachineSpec.parse(f"linux:hmm,driver={tmp_path / 'test_hmm.c'}")
        first = module_of(spec, kernel)
        (tmp_path / name).write_text("two\n")
        second = module_of(spec, kernel)
        assert first != second
        assert second is not None
        assert "two" in second.read_text()

    def test_a_driver_that_does_not_compile(self, tmp_path: Path) -> None:
        kernel = build("lean", source=tarball(tmp_path))
        driver = tmp_path / "bad.c"
        driver.write_text("an error here\n")
        spec = MachineSpec.parse(f"linux:hmm,driver={driver}")
        for _ in range(2):
            with pytest.raises(BuildError, match=f"cannot compile {driver}: (.|\n)*an error here"):
                module_of(spec, kernel)


def test_unmet() -> None:
    assert unmet("# why\nCONFIG_A=y\n\nCONFIG_B=m\n", "CONFIG_A=y\nCONFIG_B=y\n") == ["CONFIG_B=m"]
    assert unmet("# CONFIG_C is not set\n", "CONFIG_C=y\n") == ["# CONFIG_C is not set"]
    assert unmet(fragment("debug"), fragment("debug")) == []
