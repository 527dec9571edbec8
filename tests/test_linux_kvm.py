"""The mirror that is a virtual machine: what its guest does, and in which process it lives."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from linux_agents import ERROR, FAULT, HUGE, OK, Agent, check_available, read, statuses

from adapters.linux import executable
from reference.outcomes import Outcome, decode_wait


@pytest.fixture(scope="module")
def kvm() -> Iterator[Agent]:
    check_available("kvm")
    agent = Agent("kvm")
    yield agent
    agent.close()


def test_guest_instructions_are_atomic_word_by_word(kvm: Agent) -> None:
    outcomes = kvm.run("""map p0 rw page=0 pages=2
        attach d0 p0
        dwrite d0 page=0 offset=4088 length=16 value=0x10
        dadd d0 page=0 offset=4080 length=24 value=0x100
        dcas d0 page=0 offset=4080 length=24 expected=0x100 value=0x7
        read p0 page=0 offset=4080 length=24
        dadd d0 page=0 offset=0 length=8 value=0xffffffffffffffff
        dread d0 page=0 offset=0 length=8""")
    assert outcomes[2:] == [
        Outcome(OK, 0, 16), read(0, 0x10, 0x11), read(0x100, 0x110, 0x111),
        read(0x7, 0x110, 0x111), read(0), read((1 << 64) - 1),
    ]  # fmt: skip


@pytest.mark.parametrize("access", ["dread", "dwrite", "dadd", "dcas"])
def test_a_fault_is_found_at_its_word(kvm: Agent, access: str) -> None:
    values = {"dread": "", "dcas": "expected=0x7 value=0x7"}.get(access, "value=0x7")
    outcomes = kvm.run(f"""map p0 rw page=0 pages=2
        attach d0 p0
        unmap p0 page=1 pages=1
        {access} d0 page=0 offset=4080 length=24 {values}
        {access} d0 page=1 offset=0 length=8 {values}
        protect p0 r page=0 pages=1
        {access} d0 page=0 offset=0 length=8 {values}
        map p0 rw shared page=1 pages=1 file=0 from=15
        {access} d0 page=1 offset=0 length=8 {values}
        truncate p0 file=0 pages=15
        {access} d0 page=1 offset=0 length=8 {values}""")
    cut, hole, read_only, mapped, behind = (outcomes[i] for i in (3, 4, 6, 8, 10))
    assert cut[:3] == (FAULT, 14, 16)
    assert len(cut.data) == (0 if access == "dwrite" else 16)
    assert hole == behind == Outcome(FAULT, 14)
    assert read_only.status == (OK if access == "dread" else FAULT)
    assert mapped.status == OK


def test_the_guest_faults_pages_in(kvm: Agent) -> None:
    outcomes = kvm.run("""map p0 rw page=0 pages=2
        map p0 r page=2 pages=1
        attach d0 p0
        fault d0 rw page=0 pages=2
        fault d0 r page=0 pages=3
        fault d0 rw page=1 pages=2
        fault d0 r page=2 pages=2
        read p0 page=0 offset=0 length=8""")
    assert outcomes[3:] == [
        Outcome(OK), Outcome(OK), Outcome(FAULT, 14), Outcome(FAULT, 14), read(0)
    ]  # fmt: skip


def test_jobs_and_accesses_share_a_ring_many_times_over(kvm: Agent) -> None:
    job = """dread d0 page=0 offset=8 length=8 job=1
        dadd d0 page=0 offset=8 length=8 value=0x1 job=1
        submit d0 job=1"""
    adds = "dadd d0 page=0 offset=0 length=8 value=0x1\n" * 150
    outcomes = kvm.run(f"""map p0 rw page=0 pages=1
        attach d0 p0
        {job}
        {adds}wait d0 job=1
        {job}
        wait d0 job=1
        read p0 page=0 offset=0 length=16""")
    assert decode_wait(outcomes[155].data, 2) == [read(0), read(0)]
    assert decode_wait(outcomes[-2].data, 2) == [read(1), read(1)]
    assert outcomes[-1] == read(150, 2)


def test_every_process_has_machines_of_its_own(kvm: Agent) -> None:
    outcomes = kvm.run("""map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x1
        fork p0 child=p1
        attach d1 p1
        dwrite d1 page=0 offset=0 length=8 value=0x2
        dread d0 page=0 offset=0 length=8
        detach d0
        attach d0 p1
        dread d0 page=0 offset=0 length=8
        exit p1
        dread d0 page=0 offset=0 length=8
        detach d0
        attach d0 p0
        dread d0 page=0 offset=0 length=8""")
    assert (outcomes[6], outcomes[9], outcomes[-1]) == (read(1), read(2), read(1))
    assert outcomes[-4] == Outcome(ERROR, 3)
    assert statuses(outcomes[:11]) == [OK] * 11


def test_an_arena_may_be_larger_than_the_one_before(kvm: Agent) -> None:
    last = "dwrite d0 page={0} offset=0 length=8 value=0x5\nread p0 page={0} offset=0 length=8"
    for pages in (2, 1024, 16):
        program = f"map p0 rw page={pages - 1} pages=1\nattach d0 p0\n" + last.format(pages - 1)
        assert kvm.run(program, page_size=HUGE, pages=pages)[-1] == read(5)


def test_without_the_device_file_the_reason_is_said() -> None:
    """In a mount namespace whose /dev is empty; a user's own, where that is allowed."""
    script = 'mount -t tmpfs none /dev && exec "$0" --probe'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, str(executable("kvm"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unavailable" not in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr}")
    assert (done.returncode, done.stderr) == (
        3, "unavailable: /dev/kvm: No such file or directory\n"
    )  # fmt: skip
