"""Settings of the machine are put back as they were, whatever becomes of who needed them."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linux_agents import check_available

from adapters.linux import holder, keeper
from adapters.linux.keeper import FOLDER, hold
from adapters.linux.settings import COMPACTION, KSM, Settings
from adapters.worker import Worker
from reference.outcomes import Status
from reference.text import parse

ROOT = Path(__file__).parents[1]
KSM_RUN = Path("/sys/kernel/mm/ksm/run")
BEFORE = {
    "sys/kernel/mm/ksm/run": "0",
    "sys/kernel/mm/ksm/pages_to_scan": "100",
    "sys/kernel/mm/ksm/sleep_millisecs": "20",
    "proc/sys/vm/compaction_proactiveness": "20",
    "proc/swaps": "Filename\n/dev/sda2\n",
}
"""A machine that has swap, and a KSM too old for a smart scan."""
ON = {
    **BEFORE,
    "sys/kernel/mm/ksm/run": "1",
    "sys/kernel/mm/ksm/pages_to_scan": dict(KSM)["pages_to_scan"],
    "sys/kernel/mm/ksm/sleep_millisecs": dict(KSM)["sleep_millisecs"],
    "proc/sys/vm/compaction_proactiveness": COMPACTION,
}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    root = tmp_path / "machine"
    for name, value in BEFORE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    return root


def now(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text() for name in BEFORE}


class TestSettings:
    def test_are_switched_on_and_put_back(self, machine: Path, tmp_path: Path) -> None:
        settings = Settings(tmp_path / "undo.json", machine)
        assert settings.switch_on() == []
        assert now(machine) == ON
        assert settings.changed
        Settings(tmp_path / "undo.json", machine).put_back()
        assert now(machine) == BEFORE
        assert not settings.changed

    def test_that_are_on_already_are_left_alone(self, machine: Path, tmp_path: Path) -> None:
        (machine / "sys/kernel/mm/ksm/run").write_text("1")
        (machine / "proc/sys/vm/compaction_proactiveness").write_text(COMPACTION)
        before = now(machine)
        settings = Settings(tmp_path / "undo.json", machine)
        settings.switch_on()
        assert now(machine) == before
        assert not settings.changed

    def test_that_are_missing_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/swaps").write_text("Filename\n")
        settings = Settings(tmp_path / "undo.json", tmp_path)
        missing = "No such file or directory"
        assert settings.switch_on() == [
            f"no KSM: {missing}", f"no swap on zram: {missing}", f"no compaction: {missing}"
        ]  # fmt: skip
        settings.put_back()
        assert not settings.changed

    def test_that_cannot_be_put_back_are_kept_for_later(
        self, machine: Path, tmp_path: Path
    ) -> None:
        settings = Settings(tmp_path / "undo.json", machine)
        settings.switch_on()
        folder, away = machine / "sys/kernel/mm", machine / "sys/kernel/away"
        folder.rename(away)
        with pytest.raises(FileNotFoundError):
            settings.put_back()
        away.rename(folder)
        assert now(machine)["proc/sys/vm/compaction_proactiveness"] == "20"
        settings.put_back()
        assert now(machine) == BEFORE

    def test_a_file_that_was_never_finished_undoes_nothing(
        self, machine: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "undo.json").write_bytes(b"[{")
        Settings(tmp_path / "undo.json", machine).put_back()
        assert now(machine) == BEFORE


# ---- Who needs them, and what becomes of that ----

HOLDS = """
import sys
from pathlib import Path
from adapters.linux.keeper import hold
held = hold(*map(Path, sys.argv[1:]))
print("on", flush=True)
try:
    sys.stdin.read()
finally:
    held.release()
"""


class Holder:
    """Another process that has the settings on, alone in its session, until it is told or killed.

    `script` says so once they are, and waits for the end of its input.
    """

    def __init__(self, script: str, *arguments: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"on\n"

    def end(self, signal_number: int | None = None) -> None:
        if signal_number is not None:
            os.killpg(self.process.pid, signal_number)
        self.process.communicate()


@pytest.fixture
def start(machine: Path, tmp_path: Path) -> Iterator[Callable[[], Holder]]:
    """Starts a process that holds the settings of the machine."""
    holders: list[Holder] = []

    def make() -> Holder:
        holders.append(Holder(HOLDS, tmp_path, machine))
        return holders[-1]

    yield make
    for each in holders:
        each.end(signal.SIGKILL if each.process.poll() is None else None)


def await_keeper(folder: Path) -> None:
    """Until it has ended: it holds a lock as long as it lives."""
    with (folder / "keeper").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def test_the_last_to_leave_puts_them_back(
    start: Callable[[], Holder], machine: Path, tmp_path: Path
) -> None:
    first, second = start(), start()
    ours = hold(tmp_path, machine)
    assert ours.problems == []
    first.end()
    assert now(machine) == ON
    ours.release()
    ours.release()
    assert now(machine) == ON
    second.end()
    assert now(machine) == BEFORE
    await_keeper(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_is_killed_is_cleaned_up_after(
    start: Callable[[], Holder], machine: Path, tmp_path: Path, how: int
) -> None:
    first, second = start(), start()
    first.end(how)
    assert now(machine) == ON
    second.end(how)
    await_keeper(tmp_path)
    assert now(machine) == BEFORE
    assert not list(tmp_path.glob("user-*"))


def test_if_the_keeper_is_killed_too_the_next_one_cleans_up(
    start: Callable[[], Holder], machine: Path, tmp_path: Path
) -> None:
    first = start()
    os.kill(int((tmp_path / "keeper").read_text()), signal.SIGKILL)
    first.end(signal.SIGKILL)
    await_keeper(tmp_path)
    assert now(machine) == ON
    second = start()
    assert now(machine) == ON
    second.end()
    assert now(machine) == BEFORE


def test_a_keeper_that_lives_is_not_waited_for(machine: Path, tmp_path: Path) -> None:
    with (tmp_path / "keeper").open("w") as keeper:
        fcntl.flock(keeper, fcntl.LOCK_EX)  # as one that waits for the gate, its users gone
        ours = hold(tmp_path, machine)
        assert now(machine) == ON
        ours.release()
        assert now(machine) == BEFORE
        assert (tmp_path / "keeper").read_text() == "", "another one was started"


def test_problems_are_told_to_everybody(machine: Path, tmp_path: Path) -> None:
    (machine / "sys/kernel/mm/ksm/run").unlink()
    first, second = hold(tmp_path, machine), hold(tmp_path, machine)
    assert first.problems == second.problems == ["no KSM: No such file or directory"]
    first.release()
    second.release()


# ---- The machine itself ----


def test_without_root_nothing_is_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    check_available("process_vm")
    monkeypatch.setattr(keeper, "hold", None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with Worker("linux:process_vm") as worker:
        notes = worker.description.notes
    assert "not root: swap, KSM and compaction are as they were" in notes


def test_root_may_keep_settings_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    check_available("process_vm")
    monkeypatch.setenv(holder.LEFT_ALONE, "keep")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with Worker("linux:process_vm") as worker:
        notes = worker.description.notes
    assert "LASTWRITER_SETTINGS=keep: swap, KSM and compaction are as they were" in notes


REAL = [
    *(Path("/sys/kernel/mm/ksm") / name for name, _ in KSM),
    Path("/proc/sys/vm/compaction_proactiveness"),
    Path("/proc/swaps"),
]


def real() -> dict[Path, str]:
    """The settings of this machine, and its zram devices."""
    values = {path: path.read_text() for path in REAL if path.exists()}
    devices = sorted(path.name for path in Path("/sys/block").glob("zram*"))
    return {**values, Path("/sys/block"): str(devices)}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Path, str]]:
    """Nobody else has this machine's settings on, for as long as the test runs."""
    if os.geteuid() != 0:
        pytest.skip("not root: the machine's settings cannot be changed")
    if not Path("/sys/class/zram-control/hot_add").exists():
        pytest.skip("this kernel has no zram devices to add")
    if not KSM_RUN.exists():
        pytest.skip("this kernel has no KSM")
    check_available("process_vm")
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    with (FOLDER / "tests").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (FOLDER / "keeper").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pytest.skip("another run has this machine's settings switched on")
        monkeypatch.setenv(holder.LEFT_ALONE, "")
        yield real()


PROGRAM = parse(
    """lastwriter 1
    geometry page_size=4096 pages=4 processes=1 devices=1 files=0 keys=0 jobs=0
    map p0 rw page=0 pages=4
    write p0 page=0 offset=0 length=16384 value=0x10000
    merge p0 page=0 pages=4
    reclaim p0 page=0 pages=4
    attach d0 p0
    dread d0 page=3 offset=4088 length=8
    write p0 page=0 offset=0 length=8 value=0x1
    merge p0 page=1 pages=1
    dwrite d0 page=1 offset=0 length=8 value=0x2
    read p0 page=1 offset=0 length=16
    """.replace("\n    ", "\n")
)


def test_with_root_pages_leave_and_merge(alone: dict[Path, str]) -> None:
    with Worker("linux:process_vm") as worker:
        assert "merge" in worker.description.operations
        assert "for the run: swap on zram, KSM, compaction" in worker.description.notes
        assert real() != alone
        assert KSM_RUN.read_text() == "1\n"
        trace = worker.run(PROGRAM)
        assert KSM_RUN.read_text() == "0\n", "it rests when nobody waits for it"
    assert real() == alone
    await_keeper(FOLDER)
    assert trace.breakdown is None
    merged, reclaimed = trace.outcomes[2], trace.outcomes[3]
    assert merged.status == Status.OK
    assert reclaimed.status in (Status.OK, Status.SKIPPED)
    assert trace.outcomes[5].data == (0x107FF).to_bytes(8, "little")
    assert trace.outcomes[9].data == (2).to_bytes(8, "little") + (0x10201).to_bytes(8, "little")


USES = """
import sys
from adapters.worker import Worker
with Worker("linux:process_vm"):
    print("on", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_machine_is_as_it_was_after_a_kill(alone: dict[Path, str], how: int) -> None:
    user = Holder(USES)
    assert real() != alone
    user.end(how)
    await_keeper(FOLDER)
    assert real() == alone
