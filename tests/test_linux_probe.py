"""Asking the real Linux mirrors whether they can run, where they can and where they cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from adapters import linux
from adapters.candidate import CandidateError
from adapters.linux import executable, probe
from reference.operations import Kind
from reference.syncmodels import Sync

SECONDS = 30.0


def check_available(name: str) -> None:
    executable(name)  # one that was not built is no reason to skip
    found = probe(name)
    if not found.available:
        pytest.skip(f"linux:{name}: {found.reason}")


@pytest.mark.parametrize(
    ("name", "model", "keys"),
    [
        ("process_vm", Sync.FAULTING, 0),
        ("io_uring", Sync.REGISTRATION, 8),
        ("kvm", Sync.FAULTING, 0),
        ("vmsplice", Sync.REGISTRATION, 8),
        ("proc_mem", Sync.FAULTING, 0),
        ("userfaultfd", Sync.FAULTING, 0),
        ("userfaultfd_copy", Sync.FAULTING, 0),
    ],
)
def test_describes_itself(name: str, model: Sync, keys: int) -> None:
    check_available(name)
    description = probe(name).description
    assert description is not None
    assert (description.name, description.model) == (f"linux:{name}", model)
    assert (description.processes, description.devices, description.files) == (3, 2, 4)
    assert (description.keys, description.keyed, description.jobs) == (keys, keys > 0, 4)
    assert description.version == f"Linux {os.uname().release} {os.uname().machine}"
    everything = {kind.name.lower() for kind in Kind}
    assert description.operations | set(description.left_out) == everything
    assert not description.operations & set(description.left_out)
    assert ("register" in description.operations) == description.keyed
    assert set(description.only_at) == {"migrate", "collapse", "split"} & description.operations


def test_unknown_and_unbuilt_mirrors_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(CandidateError, match=r"no Linux mirror 'gpu'; there are process_vm, io_"):
        executable("gpu")
    monkeypatch.setattr(linux, "FOLDER", tmp_path)
    found = probe("process_vm")
    assert not found.available
    assert found.reason.startswith("linux:process_vm was not built: `pip install .` builds it")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'unavailable: on strike' >&2; exit 3", "on strike"),
        ("exit 4", "ended with 4 and no word"),
        ("kill -9 $$", "ended with -9 and no word"),
        ("echo '{}'", "bad description: Object missing required field `name`"),
        ("exec tail -f /dev/null", "no answer within 0.2 seconds"),
    ],
)
def test_probes_say_why_not(
    script: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "io_uring_agent"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(linux, "FOLDER", tmp_path)
    monkeypatch.setattr(linux, "PROBE_SECONDS", 0.2 if "tail" in script else SECONDS)
    found = probe("io_uring")
    assert not found.available
    assert found.reason == reason


WITHOUT_LOCKED_MEMORY = """
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)  # CAP_IPC_LOCK leaves the bounding set, if it can
resource.setrlimit(resource.RLIMIT_MEMLOCK, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def probe_with_locked_memory(size: int) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "-c", WITHOUT_LOCKED_MEMORY, str(size)]
    command = [*script, str(executable("io_uring")), "--probe"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_io_uring_asks_for_locked_memory() -> None:
    check_available("io_uring")
    none, little = probe_with_locked_memory(64 << 10), probe_with_locked_memory(8 << 20)
    assert none.returncode == 3
    assert none.stderr.startswith("unavailable: registering buffers with io_uring: Cannot allocate")
    assert none.stderr.count("\n") == 1
    assert msgspec.json.decode(little.stdout)["page_sizes"] == [4096]
