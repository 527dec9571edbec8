"""The real Linux mirrors: what their executables answer, and that nothing of them stays."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from linux_agents import (
    ERROR,
    FAULT,
    HUGE,
    MIRRORS,
    OK,
    SECONDS,
    SKIPPED,
    UNSUPPORTED,
    Agent,
    check_available,
    name_of,
    read,
    statuses,
    words,
)

from adapters.wire import ClosedError
from reference.geometry import Geometry
from reference.outcomes import OUTCOME, Outcome, decode_wait


@contextmanager
def running(name: str) -> Iterator[Agent]:
    check_available(name)
    agent = Agent(name)
    try:
        yield agent
    finally:
        agent.close()


@pytest.fixture(scope="module", params=MIRRORS)
def agent(request: pytest.FixtureRequest) -> Iterator[Agent]:
    with running(request.param) as agent:
        yield agent


@pytest.fixture(params=MIRRORS)
def own_agent(request: pytest.FixtureRequest) -> Iterator[Agent]:
    """One that the test may break."""
    with running(request.param) as agent:
        yield agent


@pytest.fixture(scope="module")
def process_vm() -> Iterator[Agent]:
    with running("process_vm") as agent:
        yield agent


@pytest.fixture(scope="module")
def io_uring() -> Iterator[Agent]:
    with running("io_uring") as agent:
        yield agent


# ---- The CPU's side ----


def test_loads_stores_and_atomics(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=2
        write p0 page=0 offset=4088 length=16 value=0x10
        read p0 page=0 offset=4080 length=24
        add p0 page=1 offset=0 length=8 value=0xffffffffffffffff
        cas p0 page=0 offset=4088 length=16 expected=0x10 value=0x20
        read p0 page=0 offset=4088 length=16""")
    assert outcomes[1] == Outcome(OK, 0, 16)
    assert outcomes[2:] == [read(0, 0x10, 0x11), read(0x11), read(0x10, 0x10), read(0x20, 0x10)]


@pytest.mark.parametrize("access", ["read", "write", "add", "cas"])
def test_faults_are_counted_to_the_word(agent: Agent, access: str) -> None:
    values = {"read": "", "cas": "expected=0x7 value=0x7"}.get(access, "value=0x7")
    outcomes = agent.run(f"""{access} p0 page=0 offset=0 length=8 {values}
        map p0 rw page=0 pages=1
        {access} p0 page=0 offset=4080 length=24 {values}
        protect p0 r page=0 pages=1
        {access} p0 page=0 offset=0 length=8 {values}""")
    assert outcomes[0][:3] == (FAULT, 14, 0)
    assert outcomes[2][:3] == (FAULT, 14, 16)
    assert len(outcomes[2].data) == (0 if access == "write" else 16)
    assert outcomes[4].status == (OK if access == "read" else FAULT)


def test_a_page_behind_its_file_faults(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw shared page=0 pages=2 file=0 from=14
        write p0 page=0 offset=4088 length=16 value=0x5
        truncate p0 file=0 pages=15
        read p0 page=0 offset=4088 length=16
        truncate p0 file=0 pages=16
        read p0 page=0 offset=4088 length=16""")
    assert outcomes[3] == Outcome(FAULT, 6, 8, words(5))
    assert outcomes[5] == read(5, 0)


@pytest.mark.parametrize("file", range(4))
def test_every_file_is_shared_and_copied_on_write(agent: Agent, file: int) -> None:
    outcomes = agent.run(f"""map p0 rw shared page=0 pages=1 file={file} from=3
        map p0 rw page=1 pages=1 file={file} from=3
        write p0 page=0 offset=0 length=8 value=0x1
        read p0 page=1 offset=0 length=8
        write p0 page=1 offset=8 length=8 value=0x2
        write p0 page=0 offset=0 length=16 value=0x8
        read p0 page=1 offset=0 length=16
        discard p0 page=1 pages=1
        read p0 page=1 offset=0 length=16
        punch p0 page=0 pages=1
        read p0 page=1 offset=0 length=16""")
    assert [outcomes[i] for i in (3, 6, 8, 10)] == [read(1), read(1, 2), read(8, 9), read(0, 0)]


def test_mappings_move_and_go(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=2
        write p0 page=0 offset=0 length=8 value=0x1
        remap p0 page=0 pages=1 to=8
        read p0 page=8 offset=0 length=8
        read p0 page=0 offset=0 length=8
        remap p0 page=8 pages=1 to=9 dontunmap
        read p0 page=8 offset=0 length=8
        remap p0 page=8 pages=2 to=9
        unmap p0 page=0 pages=16
        protect p0 r page=0 pages=1
        discard p0 page=0 pages=1""")
    assert outcomes[3:5] == [read(1), Outcome(FAULT, 14)]
    assert outcomes[6] == read(0)
    assert outcomes[7] == Outcome(ERROR, 22)
    assert outcomes[8:] == [Outcome(OK), Outcome(ERROR, 12), Outcome(ERROR, 12)]


def test_discard_punch_and_free_know_their_mappings(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=1
        map p0 rw shared page=1 pages=1
        write p0 page=0 offset=0 length=4104 value=0x1
        punch p0 page=0 pages=1
        free p0 page=1 pages=1
        discard p0 page=0 pages=2
        read p0 page=0 offset=0 length=8
        read p0 page=1 offset=0 length=8
        punch p0 page=1 pages=1
        read p0 page=1 offset=0 length=8
        free p0 page=0 pages=1""")
    assert outcomes[3:6] == [Outcome(ERROR, 22), Outcome(ERROR, 22), Outcome(OK)]
    assert outcomes[6:] == [read(0), read(0x201), Outcome(OK), read(0), Outcome(OK)]


def test_forks_are_copies_and_exits_are_final(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=1
        map p0 rw shared page=1 pages=1
        write p0 page=0 offset=0 length=8 value=0x1
        fork p0 child=p1
        write p0 page=0 offset=0 length=8 value=0x2
        write p1 page=1 offset=0 length=8 value=0x3
        read p1 page=0 offset=0 length=8
        read p0 page=1 offset=0 length=8
        fork p1 child=p2
        exit p0
        exit p1
        read p2 page=0 offset=0 length=8
        read p2 page=1 offset=0 length=8""")
    assert outcomes[6:8] == [read(1), read(3)]
    assert outcomes[8:] == [Outcome(OK)] * 3 + [read(1), read(3)]
    assert agent.run("read p0 page=0 offset=0 length=8") == [Outcome(FAULT, 14)]


def test_a_long_program_comes_in_one_batch(agent: Agent) -> None:
    writes = [f"write p0 page=0 offset=0 length=8 value={value}" for value in range(5000)]
    outcomes = agent.run(
        "\n".join(["map p0 rw page=0 pages=1", *writes, "read p0 page=0 offset=0 length=8"])
    )
    assert len(outcomes) == 5002
    assert outcomes[-1] == read(4999)


# ---- The device's side ----


def test_device_and_cpu_see_each_other(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=2
        MIRROR
        write p0 page=0 offset=4088 length=16 value=0x10
        dread d0 page=0 offset=4080 length=24 VIA
        dwrite d0 page=0 offset=4088 length=16 value=0x20 VIA
        read p0 page=0 offset=4080 length=24
        detach d0""")
    assert outcomes[-4:-1] == [read(0, 0x10, 0x11), Outcome(OK, 0, 16), read(0, 0x20, 0x21)]


def test_jobs_give_every_outcome(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=2
        MIRROR
        dwrite d0 page=0 offset=0 length=16 value=0x5 VIA job=2
        dread d0 page=9 offset=0 length=8 VIA job=2
        dread d0 page=0 offset=0 length=16 VIA job=2
        dread d0 page=0 offset=0 length=8 VIA job=1
        submit d0 job=2
        submit d0 job=1
        wait d0 job=1
        wait d0 job=2
        read p0 page=0 offset=0 length=16""")
    assert statuses(outcomes) == [OK] * len(outcomes)
    assert decode_wait(outcomes[-3].data, 1)[0].done == 8
    assert decode_wait(outcomes[-2].data, 3) == [Outcome(OK, 0, 16), Outcome(FAULT, 14), read(5, 6)]
    assert outcomes[-1] == read(5, 6)


def test_a_job_may_be_as_large_as_can_be(agent: Agent) -> None:
    access = "dread d0 page=0 offset=0 length=4194304 VIA job=1\n"
    outcomes = agent.run(
        f"""map p0 rw page=0 pages=2
        MIRROR
        dwrite d0 page=0 offset=0 length=4194304 value=0x1000 VIA
        {access * 8}submit d0 job=1
        wait d0 job=1""",
        page_size=HUGE,
        pages=2,
    )
    assert len(outcomes[-1].data) == 8 * (OUTCOME.size + 2 * HUGE)
    last = decode_wait(outcomes[-1].data, 8)[-1]
    assert last.data == words(*range(0x1000, 0x1000 + 2 * HUGE // 8))


def test_a_device_outlives_its_process(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=2
        MIRROR
        dwrite d0 page=0 offset=0 length=8 value=0x1 VIA job=1
        submit d0 job=1
        fork p0 child=p1
        exit p0
        dread d0 page=0 offset=0 length=8 VIA
        wait d0 job=1
        dread d0 page=0 offset=0 length=8 VIA job=2
        submit d0 job=2
        wait d0 job=2
        detach d0
        attach d0 p1
        read p1 page=0 offset=8 length=8""")
    assert outcomes[-8] == Outcome(ERROR, 3)
    assert decode_wait(outcomes[-7].data, 1)[0].status in (OK, FAULT, ERROR)
    assert decode_wait(outcomes[-4].data, 1) == [Outcome(ERROR, 3)]
    assert outcomes[-3:] == [Outcome(OK), Outcome(OK), read(0)]


def test_process_vm_follows_every_change(process_vm: Agent) -> None:
    outcomes = process_vm.run("""map p0 rw page=0 pages=2
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x1
        map p0 rw page=0 pages=1
        dread d0 page=0 offset=0 length=8
        protect p0 r page=1 pages=1
        dwrite d0 page=0 offset=4080 length=32 value=0x5
        unmap p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
        dread d0 page=1 offset=0 length=8""")
    assert outcomes[4:7] == [read(0), Outcome(OK), Outcome(FAULT, 14, 16)]
    assert outcomes[8:] == [Outcome(FAULT, 14), read(0)]


def test_io_uring_keeps_what_it_pinned(io_uring: Agent) -> None:
    outcomes = io_uring.run("""map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        write p0 page=0 offset=0 length=8 value=0x1
        map p0 rw page=0 pages=1
        dread d0 page=0 offset=0 length=8 key=1
        dwrite d0 page=0 offset=0 length=8 value=0x2 key=1
        read p0 page=0 offset=0 length=8
        register d0 key=1 rw page=0 pages=1
        unregister d0 key=1
        register d0 key=1 rw page=0 pages=1
        dread d0 page=0 offset=0 length=8 key=1
        fork p0 child=p1
        dwrite d0 page=0 offset=0 length=8 value=0x3 key=1
        read p0 page=0 offset=0 length=8
        read p1 page=0 offset=0 length=8""")
    assert outcomes[5:9] == [read(1), Outcome(OK, 0, 8), read(0), Outcome(ERROR, 17)]
    assert outcomes[11] == read(0)
    assert outcomes[13:] == [Outcome(OK, 0, 8), read(3), read(0)]


def test_io_uring_registers_what_it_may(io_uring: Agent) -> None:
    outcomes = io_uring.run("""map p0 rw page=0 pages=2
        attach d0 p0
        unregister d0 key=1
        dread d0 page=0 offset=0 length=8 key=1
        register d0 key=1 rw page=1 pages=2
        register d0 key=1 r page=0 pages=1
        dread d0 page=0 offset=0 length=8 key=1
        dwrite d0 page=0 offset=0 length=8 value=0x1 key=1
        dread d0 page=0 offset=4088 length=16 key=1
        protect p0 r page=1 pages=1
        register d0 key=2 rw page=1 pages=1
        register d0 key=2 r page=1 pages=1
        dwrite d0 page=0 offset=0 length=8 value=0x1 key=1 job=1
        dread d0 page=0 offset=0 length=8 key=1 job=1
        submit d0 job=1
        wait d0 job=1""")
    assert outcomes[2:6] == [
        Outcome(ERROR, 22), Outcome(FAULT, 14), Outcome(ERROR, 14), Outcome(OK)
    ]  # fmt: skip
    assert outcomes[6:9] == [read(0), Outcome(FAULT, 14), Outcome(FAULT, 14)]
    assert outcomes[10:12] == [Outcome(ERROR, 14), Outcome(UNSUPPORTED, 95)]
    assert decode_wait(outcomes[-1].data, 2) == [Outcome(FAULT, 14), read(0)]


def test_a_key_that_comes_to_life_is_too_late_for_a_job(io_uring: Agent) -> None:
    outcomes = io_uring.run("""map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x1 key=1 job=1
        submit d0 job=1
        register d0 key=1 r page=0 pages=1
        wait d0 job=1
        read p0 page=0 offset=0 length=8""")
    assert decode_wait(outcomes[5].data, 1) == [Outcome(FAULT, 14)]
    assert outcomes[6] == read(0)


# ---- Events ----


def test_huge_pages_come_go_and_move(agent: Agent) -> None:
    if "collapse" not in agent.client.describe().operations:
        pytest.skip(agent.client.describe().left_out["collapse"])
    outcomes = agent.run(
        """map p0 rw page=0 pages=2
        collapse p0 page=0 pages=1
        split p0 page=0 pages=1
        write p0 page=0 offset=1048576 length=8 value=0x7
        collapse p0 page=0 pages=1
        collapse p0 page=0 pages=1
        split p0 page=0 pages=1
        split p0 page=0 pages=1
        migrate p0 page=0 pages=1
        migrate p0 page=0 pages=1
        read p0 page=0 offset=1048576 length=8""",
        page_size=HUGE,
        pages=2,
    )
    nothing = [Outcome(SKIPPED, 22), Outcome(SKIPPED, 61)]  # no page is there yet
    assert outcomes[1:3] == nothing
    assert outcomes[-1] == read(7)
    collapsed = outcomes[4].status == OK
    assert collapsed or outcomes[4].status == SKIPPED  # no free memory of that size, perhaps
    assert outcomes[5].status == SKIPPED or not collapsed
    assert [o.status for o in outcomes[6:8]] == ([OK, SKIPPED] if collapsed else [SKIPPED] * 2)
    assert not collapsed or outcomes[8].status in (OK, SKIPPED)


def test_pages_leave_and_come_back(agent: Agent) -> None:
    pages = [f"map p0 rw page={page} pages=1" for page in range(2)]
    files = [f"map p0 rw shared page={2 + file} pages=1 file={file} from=0" for file in range(4)]
    writes = [f"write p0 page={page} offset=8 length=8 value={page + 1}" for page in range(6)]
    reads = [f"read p0 page={page} offset=8 length=8" for page in range(6)]
    outcomes = agent.run(
        "\n".join([*pages, *files, *writes, "free p0 page=1 pages=1", "reclaim p0 page=1 pages=1",
                   "reclaim p0 page=0 pages=6", "reclaim p0 page=8 pages=1", *reads])
    )  # fmt: skip
    freed, mixed, hole = outcomes[13:16]
    assert freed.status in (OK, SKIPPED)
    assert mixed.status in (OK, SKIPPED)
    assert hole == Outcome(SKIPPED, 12)
    assert outcomes[16:17] + outcomes[18:] == [read(page + 1) for page in (0, 2, 3, 4, 5)]
    assert outcomes[17] in ([read(0)] if freed.status == OK else [read(0), read(2)])


# ---- Life and death ----


def await_end(pids: list[int]) -> list[int]:
    """Which of these processes did not end in time."""
    alive = []
    for pid in pids:
        try:
            file = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        if not select.select([file], [], [], SECONDS)[0]:
            alive.append(pid)
        os.close(file)
    return alive


def test_nothing_outlives_a_killed_agent(own_agent: Agent) -> None:
    own_agent.run("map p0 rw page=0 pages=2\nMIRROR\nfork p0 child=p1\nfork p1 child=p2")
    pids = own_agent.processes()
    assert len(pids) >= 3
    os.kill(own_agent.child.pid, signal.SIGKILL)
    assert await_end(pids) == []


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_dies_ends_the_agent(own_agent: Agent, process: int) -> None:
    own_agent.run("read p0 page=0 offset=0 length=8")
    before = own_agent.processes()
    first = next(pid for pid in before if name_of(pid) == "lw-process")
    own_agent.run("map p0 rw page=0 pages=1\nfork p0 child=p1\nread p1 page=0 offset=0 length=8")
    child = next(pid for pid in own_agent.processes() if pid not in before)
    os.kill([first, child][process], signal.SIGKILL)
    assert own_agent.child.death(SECONDS) == "exited with status 70"
    assert own_agent.child.output.tail() == "lastwriter mirror: an arena process died"
    with pytest.raises(ClosedError):
        own_agent.client.reset(Geometry())


def test_a_device_that_dies_ends_the_agent() -> None:
    with running("process_vm") as agent:
        # A device that has done a job has got as far as to its name.
        agent.run("""attach d0 p0
            dread d0 page=0 offset=0 length=8 job=1
            submit d0 job=1
            wait d0 job=1""")
        device = next(pid for pid in agent.processes() if name_of(pid) == "lw-device")
        os.kill(device, signal.SIGKILL)
        assert agent.child.death(SECONDS) == "exited with status 70"
        assert agent.child.output.tail() == "lastwriter mirror: a device process died"


def test_thousands_of_resets_leave_nothing(own_agent: Agent) -> None:
    program = "map p0 rw page=0 pages=2\nMIRROR\nfork p0 child=p1\nattach d1 p1\nexit p0"
    counts = set()
    for _ in range(3):
        own_agent.run(program)
        for pages in range(700):
            own_agent.client.reset(own_agent.client.describe().limit(Geometry(pages=pages + 1)))
        pids = [own_agent.child.pid, *own_agent.processes()]
        files = [file for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir()]
        counts.add((len(pids), len(files)))
    assert len(counts) == 1


def test_a_client_that_leaves_ends_the_agent(own_agent: Agent) -> None:
    own_agent.run("map p0 rw page=0 pages=1\nfork p0 child=p1")
    pids = own_agent.processes()
    own_agent.client.close()
    assert own_agent.child.death(SECONDS) == "exited with status 0"
    assert await_end(pids) == []


@pytest.mark.parametrize("name", MIRRORS)
def test_marks_where_programs_begin(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    monkeypatch.setenv("LASTWRITER_MARKS", str(marks))
    with running(name) as agent:
        for _ in range(2):
            agent.run("map p0 rw page=0 pages=1")
    assert marks.read_text() == "lastwriter: program 1\nlastwriter: program 2\n"
