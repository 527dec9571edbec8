"""The agent of linux:hmm, with a driver in its own process that stands in for the kernel's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from linux_agents import ERROR, FAULT, OK, SKIPPED, UNSUPPORTED, Agent, read, statuses, words
from msgspec.structs import replace

from adapters.vm.initramfs import sources
from conformance.generate import Plan, random_programs
from reference.geometry import Geometry
from reference.model import judge
from reference.outcomes import Outcome, Seen, decode_wait
from reference.trace import Trace

COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")

ROOT = Path(__file__).parent.parent
LINUX = ROOT / "adapters" / "linux"
FAKE = ROOT / "tests" / "fake_hmm.c"
FLAGS = [
    *("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g"),
    *(f"-I{ROOT / 'adapters' / 'include'}", f"-I{LINUX}"),
]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
WRAPPED = "-Wl,--wrap=open,--wrap=ioctl,--wrap=access"
EFAULT, EBUSY, EINVAL = 14, 16, 22
WRITTEN = "write p0 page=0 offset=0 length=8 value=0x7"


def build(target: Path, files: list[Path], *options: str) -> Path:
    command = [str(COMPILER), *FLAGS, *options, *map(str, files), "-lpthread", "-o", str(target)]
    subprocess.run(command, check=True)
    return target


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent without what makes it a machine's first process, under the sanitizers."""
    files = [path for path in sources() if path.stem != "guest"]
    target = tmp_path_factory.mktemp("hmm") / "agent"
    return build(target, [*files, FAKE], *SANITIZERS, WRAPPED)


@pytest.fixture
def agent(program: Path) -> Iterator[Agent]:
    agent = Agent("hmm", program)
    yield agent
    agent.close()


def test_the_machine_s_agent_is_one_static_file(tmp_path: Path) -> None:
    init = build(tmp_path / "init", sources(), "-static")
    done = subprocess.run([init, "--probe"], capture_output=True, text=True, check=False)
    if Path("/dev/hmm_dmirror0").exists():
        pytest.skip("this machine has the driver")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "unavailable: /dev/hmm_dmirror0: No such file or directory\n"


def test_says_what_it_is(agent: Agent) -> None:
    description = agent.client.describe()
    assert description.name == "linux:hmm"
    assert (description.devices, description.jobs, description.write_unit) == (2, 4, 4096)
    assert {"to_device", "to_system", "exclusive", "fault"} <= description.operations
    assert {"dadd", "dcas", "register", "invalidate"} <= description.left_out.keys()


def test_a_write_leaves_the_rest_of_its_pages(agent: Agent) -> None:
    outcomes = agent.run(f"""map p0 rw page=0 pages=2
        {WRITTEN}
        write p0 page=1 offset=8 length=8 value=0x8
        attach d0 p0
        dwrite d0 page=0 offset=4088 length=16 value=0x10
        read p0 page=0 offset=0 length=8
        dread d0 page=0 offset=4088 length=24""")
    assert outcomes[-2:] == [read(7), read(0x10, 0x11, 8)]


def test_a_write_to_the_same_page_twice_leaves_what_it_wrote_first(agent: Agent) -> None:
    """Pages 1 and 3 are one page of shared memory; of both the write changes a part."""
    outcomes = agent.run("""map p0 rw shared page=0 pages=2
        attach d0 p0
        remap p0 page=0 pages=2 to=2 dontunmap
        dwrite d0 page=1 offset=4088 length=8192 value=0x40
        dread d0 page=1 offset=4080 length=16
        dread d0 page=3 offset=0 length=8""")
    assert outcomes[-2:] == [read(0x40 + 1023, 0x40), read(0x40 + 513)]


@pytest.mark.parametrize(("access", "gives"), [("dread", True), ("dwrite", False)])
def test_counts_the_pages_before_a_fault(agent: Agent, access: str, *, gives: bool) -> None:
    value = "" if gives else "value=0x20"
    outcomes = agent.run(f"""map p0 rw page=0 pages=2
        {WRITTEN}
        attach d0 p0
        {access} d0 page=0 offset=8 length=12288 {value}
        {access} d0 page=2 offset=0 length=8 {value}
        {access} d0 page=1 offset=8 length=4096 {value}
        read p0 page=1 offset=4088 length=8""")
    assert [outcome[:3] for outcome in outcomes[3:6]] == [
        (FAULT, EFAULT, 8184),
        (FAULT, EFAULT, 0),
        (FAULT, EFAULT, 4088),
    ]
    assert len(outcomes[3].data) == (8184 if gives else 0)
    # Each of two writes has got to the last word of page 1; the second one last.
    assert outcomes[6] == read(0 if gives else 0x20 + 510)


def test_what_cannot_be_written_faults(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=1
        map p0 r page=1 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8192 value=0x30
        dwrite d0 page=1 offset=0 length=8 value=0x40
        fault d0 rw page=0 pages=2
        fault d0 r page=0 pages=2
        read p0 page=0 offset=4088 length=16""")
    assert outcomes[3][:3] == (FAULT, EFAULT, 4096)
    assert outcomes[4][:3] == (FAULT, EFAULT, 0)
    assert statuses(outcomes[5:7]) == [ERROR, OK]
    assert outcomes[7] == read(0x30 + 511, 0)


def test_no_part_of_a_page_is_written_beside_others(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=2
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x7 job=1
        dwrite d0 page=0 offset=0 length=4096 value=0x10 job=1
        dread d0 page=0 offset=4088 length=8 job=1
        submit d0 job=1
        dwrite d0 page=1 offset=0 length=8 value=0x7
        fault d0 rw page=1 pages=1
        dwrite d0 page=1 offset=0 length=4096 value=0x20
        wait d0 job=1
        dwrite d0 page=1 offset=0 length=8 value=0x7
        dread d0 page=1 offset=0 length=16""")
    refused = [outcomes[index] for index in (2, 6, 7)]
    assert statuses(refused) == [UNSUPPORTED] * 3
    assert [outcome.error for outcome in refused] == [EINVAL, EBUSY, EBUSY]
    assert decode_wait(outcomes[9].data, 2) == [Outcome(OK, 0, 4096), read(0x10 + 511)]
    assert outcomes[11] == read(7, 0x21)


def test_says_whether_anything_has_moved(agent: Agent) -> None:
    outcomes = agent.run("""map p0 rw page=0 pages=2
        attach d0 p0
        to_device d0 page=0 pages=2
        to_device d0 page=0 pages=2
        to_device d0 page=1 pages=2
        to_system d0 page=0 pages=1
        to_system d0 page=0 pages=1
        to_device d0 page=4 pages=1
        exclusive d0 page=0 pages=2
        exclusive d0 page=4 pages=1""")
    assert statuses(outcomes[2:]) == [OK, SKIPPED, ERROR, OK, SKIPPED, ERROR, OK, ERROR]


def test_shows_what_the_driver_sees(agent: Agent) -> None:
    lines = """map p0 rw page=0 pages=2
        attach d0 p0
        to_device d0 page=0 pages=1
        snapshot d0 page=0 pages=3"""
    for page_size in (4096, 65536):
        shown = agent.run(lines, page_size=page_size)[-1]
        assert shown == Outcome(OK, data=bytes([Seen.READ | Seen.HERE, Seen.READ | Seen.SYSTEM, 0]))


@pytest.mark.parametrize("process", [0, 1, 2])
def test_a_device_of_a_process_that_has_exited(agent: Agent, process: int) -> None:
    """One that ends by itself, and one that is killed and reaped."""
    forks = "".join(f"fork p0 child=p{child}\n" for child in (1, 2))
    outcomes = agent.run(f"""map p0 rw page=0 pages=1
        {forks}attach d0 p{process}
        dread d0 page=0 offset=0 length=8
        exit p{process}
        dread d0 page=0 offset=0 length=8
        dwrite d0 page=0 offset=0 length=8 value=0x7
        fault d0 r page=0 pages=1
        to_device d0 page=0 pages=1
        dread d0 page=0 offset=0 length=8 job=1
        submit d0 job=1
        wait d0 job=1
        detach d0
        attach d0 p{(process + 1) % 3}
        dread d0 page=0 offset=0 length=8""")
    assert statuses(outcomes[4:6]) == [OK, OK]
    assert statuses(outcomes[6:10]) == [FAULT, FAULT, ERROR, ERROR]
    assert statuses(decode_wait(outcomes[12].data, 1)) == [FAULT]
    assert statuses(outcomes[13:]) == [OK, OK, OK]


def test_a_job_goes_to_the_process_that_the_device_is_attached_to(agent: Agent) -> None:
    job = "dread d0 page=0 offset=0 length=8 job=1\nsubmit d0 job=1\nwait d0 job=1\n"
    outcomes = agent.run(f"""map p0 rw page=0 pages=1
        {WRITTEN}
        fork p0 child=p1
        write p1 page=0 offset=0 length=8 value=0x8
        attach d0 p0
        {job}to_device d0 page=0 pages=1
        detach d0
        attach d0 p1
        {job}detach d0
        attach d0 p0
        {job}""")
    waits = [outcome.data for outcome in outcomes if len(outcome.data) > 16]
    assert [decode_wait(data, 1)[0].data for data in waits] == [words(7), words(8), words(7)]


def test_files_that_other_processes_leave_are_closed_at_some_time(agent: Agent) -> None:
    """More programs than it keeps files of, each of which leaves two."""
    for _ in range(40):
        outcomes = agent.run("""fork p0 child=p1
            attach d0 p1
            attach d1 p1
            dread d1 page=0 offset=0 length=8""")
        assert statuses(outcomes) == [OK, OK, OK, FAULT]
    files = list(Path(f"/proc/{agent.child.pid}/fd").iterdir())
    assert len(files) < 80


@pytest.mark.parametrize(("page_size", "pages"), [(4096, 16), (65536, 8)])
def test_random_programs_are_judged_right(agent: Agent, page_size: int, pages: int) -> None:
    description = agent.client.describe()
    # The driver that stands in cannot know where CPUs have been, and so not where a page is.
    known = replace(description, operations=description.operations - {"snapshot"})
    geometry = Geometry(page_size=page_size, pages=pages)
    plan = Plan.for_candidate(known, geometry, max_operations=60)
    programs = random_programs(plan, seed=1, sweep=True)
    for _ in range(20):
        program = next(programs)
        agent.client.reset(program.geometry)
        trace = Trace(program, tuple(agent.client.run(program.operations)))
        assert judge(trace).violation is None, program
