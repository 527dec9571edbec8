"""The page-migrating mirrors: where pages are, and what userfaultfd tells them of and what not."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from linux_agents import FAULT, HUGE, OK, SKIPPED, Agent, check_available, name_of, read, words

from adapters.linux import probe
from reference.outcomes import Outcome

WAYS = ("userfaultfd", "userfaultfd_copy")
FRAMES = 64
"""Small pages that a device has room for."""


@pytest.fixture(scope="module", params=WAYS)
def mirror(request: pytest.FixtureRequest) -> Iterator[Agent]:
    check_available(request.param)
    agent = Agent(request.param)
    yield agent
    agent.close()


def is_at_cpu(agent: Agent, page: int) -> bool:
    """Whether the first process has this small page of the arena, as its page map says."""
    pid = next(pid for pid in agent.processes() if name_of(pid) == "lw-process")
    lines = Path(f"/proc/{pid}/maps").read_text("ascii").splitlines()
    arena = min(int(line.partition("-")[0], 16) for line in lines)
    with Path(f"/proc/{pid}/pagemap").open("rb") as file:
        file.seek((arena // 4096 + page) * 8)
        (entry,) = struct.unpack("<Q", file.read(8))
    return bool(entry >> 63)


def test_a_page_is_at_one_side_at_a_time(mirror: Agent) -> None:
    start = """map p0 rw page=0 pages=2
        attach d0 p0
        write p0 page=0 offset=0 length=8 value=0x5\n"""
    mirror.run(start)
    assert (is_at_cpu(mirror, 0), is_at_cpu(mirror, 1)) == (True, False)
    mirror.run(start + "dwrite d0 page=0 offset=8 length=8 value=0x6")
    assert not is_at_cpu(mirror, 0)
    again = mirror.run(
        start
        + """dwrite d0 page=0 offset=8 length=8 value=0x6
        read p0 page=0 offset=0 length=16"""
    )
    assert again[-1] == read(5, 6)
    assert is_at_cpu(mirror, 0)


def test_a_page_that_is_only_read_may_be_at_both() -> None:
    check_available("userfaultfd_copy")
    agent = Agent("userfaultfd_copy")
    start = """map p0 rw page=0 pages=1
        attach d0 p0
        write p0 page=0 offset=0 length=8 value=0x5
        dread d0 page=0 offset=0 length=8\n"""
    agent.run(start)
    assert is_at_cpu(agent, 0)
    outcomes = agent.run(
        start
        + """write p0 page=0 offset=0 length=8 value=0x7
        dread d0 page=0 offset=0 length=8
        dadd d0 page=0 offset=0 length=8 value=0x1
        read p0 page=0 offset=0 length=8"""
    )
    agent.close()
    assert outcomes[-3:] == [read(7), read(7), read(8)]


def test_pages_are_migrated_on_demand(mirror: Agent) -> None:
    outcomes = mirror.run("""map p0 rw page=0 pages=2
        map p0 rw shared page=2 pages=1
        map p0 r page=3 pages=1
        attach d0 p0
        attach d1 p0
        write p0 page=0 offset=0 length=8 value=0x5
        to_device d0 page=0 pages=4
        to_device d0 page=0 pages=1
        to_device d0 page=2 pages=2
        dread d1 page=0 offset=0 length=8
        to_system d0 page=0 pages=1
        to_system d1 page=0 pages=4
        dread d1 page=3 offset=0 length=8
        dwrite d1 page=3 offset=0 length=8 value=0x1
        dread d1 page=4 offset=0 length=8""")
    assert outcomes[6] == Outcome(OK)
    assert outcomes[7:9] == [Outcome(SKIPPED, 61)] * 2  # there already; not to be moved
    assert outcomes[9:12] == [read(5), Outcome(SKIPPED, 61), Outcome(OK)]
    assert outcomes[12:] == [read(0), Outcome(FAULT, 14), Outcome(FAULT, 14)]


def test_a_full_device_makes_room(mirror: Agent) -> None:
    size = 4 * FRAMES * 4096
    outcomes = mirror.run(
        f"""map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length={size} value=0x100
        dread d0 page=0 offset=0 length={size}
        read p0 page=0 offset=0 length={size}""",
        page_size=HUGE,
        pages=1,
    )
    assert outcomes[3].data == outcomes[4].data == words(*range(0x100, 0x100 + size // 8))


def test_what_userfaultfd_tells_is_heard(mirror: Agent) -> None:
    outcomes = mirror.run("""map p0 rw page=0 pages=4
        attach d0 p0
        dwrite d0 page=0 offset=0 length=16384 value=0x1000
        discard p0 page=0 pages=1
        dread d0 page=0 offset=0 length=8
        unmap p0 page=1 pages=1
        dread d0 page=1 offset=0 length=8
        map p0 rw page=1 pages=1
        dread d0 page=1 offset=0 length=8
        remap p0 page=2 pages=1 to=8
        dread d0 page=8 offset=0 length=8
        dread d0 page=2 offset=0 length=8
        remap p0 page=3 pages=1 to=9 dontunmap
        dread d0 page=9 offset=0 length=8
        dread d0 page=3 offset=0 length=8
        read p0 page=9 offset=8 length=8""")
    assert outcomes[4] == read(0)
    assert (outcomes[6], outcomes[8]) == (Outcome(FAULT, 14), read(0))
    assert outcomes[10:12] == [read(0x1400), Outcome(FAULT, 14)]
    assert outcomes[13:] == [read(0x1600), read(0), read(0x1601)]


def test_a_child_gets_what_was_at_the_device(mirror: Agent) -> None:
    outcomes = mirror.run("""map p0 rw page=0 pages=3
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x5
        write p0 page=1 offset=0 length=8 value=0x6
        fork p0 child=p1
        dwrite d0 page=0 offset=0 length=8 value=0x7
        dwrite d0 page=1 offset=0 length=8 value=0x8
        read p1 page=0 offset=0 length=8
        read p1 page=1 offset=0 length=8
        read p1 page=2 offset=0 length=8
        attach d1 p1
        dwrite d1 page=0 offset=0 length=8 value=0x9
        fork p1 child=p2
        exit p1
        read p2 page=0 offset=0 length=8
        read p0 page=0 offset=0 length=8
        read p0 page=1 offset=0 length=8""")
    assert outcomes[7:10] == [read(5), read(6), read(0)]
    assert outcomes[-3:] == [read(9), read(7), read(8)]


def test_pages_go_home_when_the_device_leaves(mirror: Agent) -> None:
    outcomes = mirror.run("""map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x5
        detach d0
        read p0 page=0 offset=0 length=8""")
    assert outcomes[-1] == read(5)


def test_mprotect_is_not_seen(mirror: Agent) -> None:
    """The reason for which it is left out: a page at the device keeps its rights."""
    outcomes = mirror.run("""map p0 rw page=0 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x5
        protect p0 r page=0 pages=1
        dwrite d0 page=0 offset=0 length=8 value=0x6""")
    assert outcomes[-1] == Outcome(OK, 0, 8)


@pytest.mark.parametrize("name", WAYS)
def test_it_says_what_it_cannot_see(name: str) -> None:
    check_available(name)
    description = probe(name).description
    assert description is not None
    assert description.left_out["protect"] == "userfaultfd does not tell of mprotect"
    assert {"to_device", "to_system", "remap", "fork", "discard"} <= description.operations
