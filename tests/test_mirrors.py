"""The correct in-memory mirrors."""

from __future__ import annotations

import errno
import struct
from collections import Counter

import pytest
from mirror_programs import judged, random_program, run, script
from oracle import PLAIN, Oracle

from reference.mirrors import MIRRORS, Mirror
from reference.mirrors.frames import CHUNK, FramePool
from reference.mirrors.manager import MemoryManager
from reference.operations import WORD, Kind, Operation
from reference.outcomes import Outcome, Status, decode_wait
from reference.program import Program
from reference.syncmodels import Sync


def outcomes_of(name: str, lines: str, page_size: int = 4096) -> tuple[Outcome, ...]:
    mirror = MIRRORS[name]()
    return run(mirror, script(mirror, lines, page_size))


def word(outcome: Outcome) -> int:
    assert outcome.status == Status.OK
    return int(struct.unpack("<Q", outcome.data)[0])


@pytest.fixture(params=sorted(MIRRORS))
def mirror(request: pytest.FixtureRequest) -> Mirror:
    return MIRRORS[request.param]()


class TestDescription:
    def test_makes_sense_and_matches_the_handlers(self, mirror: Mirror) -> None:
        description = mirror.describe()
        description.check()
        assert description.name in {f"reference:{name}" for name in MIRRORS}
        assert description.kinds(4096) == {Kind(kind) for kind in mirror._handlers}

    def test_the_three_sync_models_are_there(self) -> None:
        others = {"caching", "looking"}
        assert {Sync(name) for name in MIRRORS if name not in others} == set(Sync)
        assert all(MIRRORS[name]().describe().model == name for name in Sync)

    def test_other_operations_are_unsupported(self, mirror: Mirror) -> None:
        mirror.run([Operation(Kind.ATTACH, 0, 0, 0, 0, 0)])
        kind = Kind.TO_DEVICE if mirror.keyed else Kind.REGISTER
        (outcome,) = mirror.run([Operation(kind, 0, 0, 1, 0, 1, key=int(not mirror.keyed))])
        assert outcome == Outcome(Status.UNSUPPORTED)


class TestTheLaw:
    def test_random_programs_are_allowed_by_the_model(self, mirror: Mirror) -> None:
        description = mirror.describe()
        exercised: Counter[str] = Counter()
        for seed in range(120):
            program = random_program(description, seed)
            judgement = judged(mirror, program)
            assert judgement.violation is None, f"seed {seed}: {judgement.violation}"
            exercised += judgement.exercised
        # Without these the programs above would say little.
        assert {"C2", "L7", "A1", "A2", "C1/device sees cpu"} <= exercised.keys()

    @pytest.mark.parametrize("page_size", [65536, 2 << 20])
    def test_large_pages(self, mirror: Mirror, page_size: int) -> None:
        description = mirror.describe()
        for seed in range(25):
            program = random_program(description, seed, page_size=page_size)
            violation = judged(mirror, program).violation
            assert violation is None, f"seed {seed}: {violation}"

    def test_batches_do_not_matter(self, mirror: Mirror) -> None:
        for seed in range(50):
            program = random_program(mirror.describe(), seed)
            at_once = run(mirror, program)
            mirror.reset(program.geometry)
            assert at_once == tuple(mirror.run([op])[0] for op in program.operations)


class TestBookkeeping:
    def test_every_holder_of_a_frame_is_counted(self, mirror: Mirror) -> None:
        for seed in range(150):
            run(mirror, random_program(mirror.describe(), seed))
            manager = mirror.manager
            assert all(space.active_ranges == 0 for space in manager.spaces.values())
            _check_references(manager)

    def test_nothing_is_left_when_everything_is_gone(self, mirror: Mirror) -> None:
        for seed in range(100):
            program = random_program(mirror.describe(), seed)
            run(mirror, program)
            _close_everything(mirror, program)
            assert list(mirror.manager.pool.live.values()) == [mirror.manager.zero]
            assert len(mirror.manager.swap) == 0


def _check_references(manager: MemoryManager) -> None:
    mapped = Counter(
        entry.frame.number
        for space in manager.spaces.values()
        for entry in space.table.values()
        if entry.frame is not None
    )
    for frame in manager.pool.live.values():
        if frame is manager.zero:
            continue
        assert len(frame.mappings) == mapped[frame.number]
        in_flight = frame.references - len(frame.mappings) - frame.pins - (frame.cache is not None)
        assert in_flight >= 0
        assert frame.references > 0


def _close_everything(mirror: Mirror, program: Program) -> None:
    """Wait for the jobs, detach, truncate the files to nothing, and let the processes exit."""
    rest: list[Operation] = []
    for number, device in enumerate(mirror.devices):
        rest += [Operation(Kind.WAIT, 0, number, 0, 0, 0, job=job) for job in device.in_flight]
        rest.append(Operation(Kind.DETACH, 0, number, 0, 0, 0))
    for file in range(program.geometry.files):
        rest.append(Operation(Kind.TRUNCATE, 0, 0, 0, 0, 0, file=file))
    rest += [Operation(Kind.EXIT, number, 0, 0, 0, 0) for number in mirror.manager.spaces]
    mirror.run(rest)


@pytest.mark.parametrize("page_size", [4096, 2 << 20])
def test_one_process_alone_behaves_like_dictionaries(mirror: Mirror, page_size: int) -> None:
    compared = 0
    for seed in range(200):
        program = random_program(mirror.describe(), seed, PLAIN, length=100, page_size=page_size)
        oracle = Oracle(program.geometry)
        for index, (op, outcome) in enumerate(
            zip(program.operations, run(mirror, program), strict=True)
        ):
            expected = oracle.step(op)
            if expected is not None:
                assert outcome == expected, f"seed {seed}, operation {index}: {op}"
                compared += outcome.done > 0
    assert compared > 1000


class TestFrames:
    def test_recycled_at_once_and_poisoned(self) -> None:
        pool = FramePool()
        frames = [pool.allocate() for _ in range(2)]
        first, second = (frame for frame in frames if frame is not None)
        first.clear()
        first.write(0, 1, 7)
        pool.get(first)
        pool.put(first)
        assert pool.allocate() is first
        assert first.read(0, 1) != second.read(0, 1)
        assert first.read(0, 1) not in {bytes(8), struct.pack("<Q", 7)}

    def test_a_huge_frame_stores_only_what_was_written(self) -> None:
        frame = FramePool().allocate()
        assert frame is not None
        frame.clear()
        frame.write(100 * CHUNK - 1, 2, (1 << 64) - 1)
        assert len(frame.chunks) == 2
        words = struct.unpack("<4Q", frame.read(100 * CHUNK - 2, 4))
        assert words == (0, (1 << 64) - 1, 0, 0)


class TestFaulting:
    def test_device_memory_is_small_and_the_rest_stays(self) -> None:
        *_, moved, last = outcomes_of(
            "faulting",
            """
            map p0 rw page=0 pages=8
            write p0 page=7 offset=0 length=8 value=0x5
            attach d0 p0
            to_device d0 page=0 pages=8
            read p0 page=7 offset=0 length=8
            """,
        )
        assert moved.status == Status.OK
        assert word(last) == 5

    def test_a_page_of_the_other_device_comes_back_first(self) -> None:
        mirror = MIRRORS["faulting"]()
        program = script(
            mirror,
            """
            map p0 rw page=0 pages=1
            attach d0 p0
            attach d1 p0
            to_device d0 page=0 pages=1
            dwrite d0 page=0 offset=0 length=8 value=0x5
            dread d1 page=0 offset=0 length=8
            to_system d0 page=0 pages=1
            """,
        )
        *_, read, back = run(mirror, program)
        assert word(read) == 5
        assert back.status == Status.SKIPPED

    def test_the_processor_revokes_exclusive_access(self) -> None:
        mirror = MIRRORS["faulting"]()
        lines = """
            map p0 rw page=0 pages=1
            attach d0 p0
            exclusive d0 page=0 pages=1
            dwrite d0 page=0 offset=0 length=8 value=0x5
            """
        run(mirror, script(mirror, lines))
        entry = mirror.manager.spaces[0].table[0]
        assert entry.exclusive is mirror.devices[0]
        (read,) = mirror.run([Operation(Kind.READ, 0, 0, 0, 0, 0, 0, WORD)])
        assert word(read) == 5
        assert entry.exclusive is None

    def test_a_freed_page_may_be_dropped_by_reclaim(self) -> None:
        *_, old, _, dropped = outcomes_of(
            "faulting",
            """
            map p0 rw page=0 pages=1
            write p0 page=0 offset=0 length=8 value=0x5
            free p0 page=0 pages=1
            read p0 page=0 offset=0 length=8
            reclaim p0 page=0 pages=1
            read p0 page=0 offset=0 length=8
            """,
        )
        assert (word(old), word(dropped)) == (5, 0)

    @pytest.mark.parametrize(("job", "at_submit"), [(1, 0), (2, 2), (3, 1)])
    def test_jobs_run_at_different_times(self, job: int, at_submit: int) -> None:
        *_, waited = outcomes_of(
            "faulting",
            f"""
            map p0 rw page=0 pages=1
            attach d0 p0
            dread d0 page=0 offset=0 length=8 job={job}
            dread d0 page=0 offset=0 length=8 job={job}
            submit d0 job={job}
            write p0 page=0 offset=0 length=8 value=0x5
            wait d0 job={job}
            """,
        )
        words = [word(outcome) for outcome in decode_wait(waited.data, 2)]
        assert words == [0] * at_submit + [5] * (2 - at_submit)


class TestRefcounting:
    BUSY = """
        map p0 rw page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        dwrite d0 page=0 offset=0 length=8 value=0x5 key=1 job=1
        submit d0 job=1
        """

    def test_only_a_busy_range_refuses_and_only_when_it_may_not_block(self) -> None:
        *_, busy, idle, blocking = outcomes_of(
            "refcounting",
            self.BUSY
            + """
            invalidate p0 page=0 pages=1 event=clear nonblock
            invalidate p0 page=1 pages=1 event=clear nonblock
            invalidate p0 page=0 pages=1 event=clear
            """,
        )
        assert busy == Outcome(Status.ERROR, errno.EAGAIN)
        assert idle.status == blocking.status == Status.OK

    def test_the_job_comes_before_the_change(self) -> None:
        *_, before, _, after = outcomes_of(
            "refcounting",
            self.BUSY
            + """
            read p0 page=0 offset=0 length=8
            migrate p0 page=0 pages=1
            read p0 page=0 offset=0 length=8
            """,
        )
        assert (word(before), word(after)) == (0, 5)

    def test_pages_that_a_job_makes_different_are_not_merged(self) -> None:
        *_, merged, _, written = outcomes_of(
            "refcounting",
            """
            map p0 rw page=0 pages=2
            attach d0 p0
            register d0 key=1 rw page=0 pages=2
            dwrite d0 page=0 offset=0 length=8 value=0x5 key=1 job=1
            submit d0 job=1
            merge p0 page=0 pages=2
            wait d0 job=1
            read p0 page=0 offset=0 length=8
            """,
        )
        assert merged.status == Status.SKIPPED
        assert word(written) == 5

    def test_a_buffer_is_valid_as_a_whole(self) -> None:
        *_, read = outcomes_of(
            "refcounting",
            """
            map p0 rw page=0 pages=2
            attach d0 p0
            register d0 key=1 rw page=0 pages=2
            unmap p0 page=1 pages=1
            dread d0 page=0 offset=0 length=8 key=1
            """,
        )
        assert read.status == Status.FAULT


class TestRegistration:
    PINNED = """
        map p0 rw page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=0 pages=2
        """

    @pytest.mark.parametrize("event", ["reclaim", "migrate", "merge", "collapse"])
    def test_pinned_pages_stay(self, event: str) -> None:
        *_, outcome = outcomes_of("registration", f"{self.PINNED}\n{event} p0 page=0 pages=2")
        assert outcome.status == Status.SKIPPED

    def test_pages_move_again_when_unregistered(self) -> None:
        *_, outcome = outcomes_of(
            "registration", f"{self.PINNED}\nunregister d0 key=1\nmigrate p0 page=0 pages=2"
        )
        assert outcome.status == Status.OK

    def test_the_device_keeps_its_frame_when_the_mapping_goes(self) -> None:
        *_, device, cpu = outcomes_of(
            "registration",
            self.PINNED
            + """
            write p0 page=0 offset=0 length=8 value=0x5
            map p0 rw page=0 pages=2
            dread d0 page=0 offset=0 length=8 key=1
            read p0 page=0 offset=0 length=8
            """,
        )
        assert (word(device), word(cpu)) == (5, 0)

    def test_keys_are_checked(self) -> None:
        *_, twice, unknown, outside, dead = outcomes_of(
            "registration",
            self.PINNED
            + """
            register d0 key=1 r page=0 pages=1
            unregister d0 key=2
            dread d0 page=2 offset=0 length=8 key=1
            dread d0 page=0 offset=0 length=8 key=3
            """,
        )
        assert twice == Outcome(Status.ERROR, errno.EBUSY)
        assert unknown == Outcome(Status.ERROR, errno.EINVAL)
        assert outside.status == dead.status == Status.FAULT
