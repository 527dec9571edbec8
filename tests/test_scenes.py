"""Scenes: beginnings of programs in which two actors meet over the same pages."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from driving import describe, script
from generated import collect

from conformance.backend import NAME
from conformance.generate import Plan, with_sweep
from conformance.generate import scenes as module
from conformance.generate.fresh import grown_from_seed
from conformance.generate.scenes import scene
from conformance.meetings import meetings
from reference.drivers import DRIVERS
from reference.drivers.faulting import FaultingDriver
from reference.drivers.registration import RegistrationDriver
from reference.geometry import Geometry
from reference.operations import Flag, Kind, Operation
from reference.validity import check_program

EVERY = [bytes((which, where)) for which in range(256) for where in (0, 60, 255)]


def plan_for(name: str, **changes: object) -> Plan:
    """A plan of which every program begins with a scene."""
    geometry = Geometry(**{"pages": 4, "processes": 2, "devices": 2, "files": 2} | changes)  # type: ignore[arg-type]
    description = describe(DRIVERS[name])
    limited = description.limit(geometry._replace(keys=4 if description.keyed else 0, jobs=2))
    return replace(Plan.for_candidate(description, limited, max_operations=12), scenes=256)


@pytest.fixture(params=DRIVERS)
def plan(request: pytest.FixtureRequest) -> Plan:
    return plan_for(request.param)


def test_programs_with_scenes_are_valid_and_functions_of_their_seed(plan: Plan) -> None:
    for seed in range(300):
        program = grown_from_seed(plan, seed).program
        check_program(with_sweep(program, plan))
        assert program == grown_from_seed(plan, seed).program


@pytest.mark.parametrize("changes", [{"pages": 1}, {"processes": 1}, {"devices": 1}, {"files": 0}])
@pytest.mark.parametrize("name", DRIVERS)
def test_scenes_do_without_what_a_candidate_lacks(name: str, changes: dict[str, int]) -> None:
    lacking = plan_for(name, **changes)
    for seed in range(100):
        check_program(grown_from_seed(lacking, seed).program)


def test_every_step_of_a_scene_can_be_taken(plan: Plan) -> None:
    for choice in EVERY:
        mapping, *rest = scene(plan, choice)
        assert Kind.MAP in mapping.kinds
        setup = {Kind.ATTACH, Kind.REGISTER, Kind.FORK}
        assert all(step.kinds.keys() & (plan.profile.weights.keys() | setup) for step in rest)


def test_every_scene_comes_for_some_choice() -> None:
    plan = plan_for("faulting")
    found = [scene(plan, choice) for choice in EVERY]
    for _, (_, *steps) in (*module._MEETINGS, *module._ENDS):
        assert any([*each[-len(steps) :]] == steps for each in found), steps


def test_a_candidate_with_few_operations_gets_the_scenes_that_it_can_play() -> None:
    plan = plan_for("faulting")
    few = {kind: plan.profile.weights[kind] for kind in (Kind.MAP, Kind.READ, Kind.WRITE)}
    assert scene(replace(plan, profile=replace(plan.profile, weights=few)), b"\0\0") == ()


def test_actors_meet_in_most_programs(plan: Plan) -> None:
    met = [meetings(grown_from_seed(plan, seed).program) for seed in range(200)]
    assert sum(map(bool, met)) > 160


def test_what_is_rare_by_chance_comes(plan: Plan) -> None:
    """A process that ends while a device mirrors it, and a change under a job in flight."""
    found: Counter[str] = Counter()
    for seed in range(200):
        operations = grown_from_seed(plan, seed).program.operations
        kinds = [operation.kind for operation in operations]
        mirrored = {each.process for each in operations if each.kind == Kind.ATTACH}
        found["end"] += any(e.kind == Kind.EXIT and e.process in mirrored for e in operations)
        if Kind.SUBMIT in kinds and Kind.WAIT in kinds[kinds.index(Kind.SUBMIT) :]:
            found["job"] += kinds[kinds.index(Kind.SUBMIT) + 1] != Kind.WAIT
        found["no sleep"] += any(each.flags & Flag.NONBLOCK for each in operations)
        found["two devices"] += len({each.device for each in operations}) > 1
    assert min(found[each] for each in ("end", "job", "no sleep")) >= 10, found


@pytest.mark.parametrize("backend", ["hypothesis", NAME])
def test_an_operation_takes_one_choice(backend: str) -> None:
    plan = plan_for("faulting")
    found, choices = collect(plan, 60, backend)
    taken = [program for program in found if program.operations]
    assert choices <= sum(len(program) for program in found) * 2 + 3 * len(found)
    for program in taken:
        check_program(program)


def test_plans_without_scenes_are_as_they_were() -> None:
    plan = replace(plan_for("faulting"), scenes=0)
    begun = [grown_from_seed(plan, seed).program.operations[:2] for seed in range(100)]
    assert sum(kinds_of(each) == [Kind.MAP, Kind.ATTACH] for each in begun) < 60


def kinds_of(operations: tuple[Operation, ...]) -> list[int]:
    return [operation.kind for operation in operations]


class TestMeetings:
    """Where one actor's operation may be interrupted by what another's next one is about."""

    def of(self, lines: str) -> list[tuple[int, int]]:
        """First and second of each meeting, by operation, without repetitions."""
        found = meetings(script(FaultingDriver, lines))
        return sorted({(each.first.operation, each.second.operation) for each in found})

    SETUP = "map p0 rw page=0 pages=2\nattach d0 p0\n"

    def test_a_use_and_a_change_of_the_same_page(self) -> None:
        fault, gone = "dread d0 page=0 offset=0 length=8\n", "discard p0 page=0 pages=1\n"
        assert self.of(self.SETUP + fault + gone) == [(2, 3)]
        assert self.of(self.SETUP + gone + fault) == [(2, 3)]
        assert self.of(self.SETUP + fault + gone.replace("page=0", "page=1")) == []

    def test_only_what_an_actor_does_next(self) -> None:
        lines = """
            dread d0 page=0 offset=0 length=8
            read p0 page=1 offset=0 length=8
            discard p0 page=0 pages=1
        """
        assert self.of(self.SETUP + lines) == []

    def test_two_accesses_are_no_meeting_and_nothing_is_before_a_device_is_there(self) -> None:
        reads = "dread d0 page=0 offset=0 length=8\nread p0 page=0 offset=0 length=8\n"
        assert self.of(self.SETUP + reads) == []
        assert self.of("map p0 rw page=0 pages=2\nreclaim p0 page=0 pages=1\nattach d0 p0\n") == []

    def test_a_job_meets_what_comes_before_its_wait(self) -> None:
        lines = """
            dread d0 page=0 offset=0 length=8 job=1
            submit d0 job=1
            unmap p0 page=0 pages=1
            wait d0 job=1
        """
        found = meetings(script(FaultingDriver, self.SETUP + lines))
        actors = {each.first.actor for each in found if each.first.operation == 3}
        assert actors == {8, 24}, "the driver, and the engine"

    def test_the_end_of_a_process_concerns_every_page(self) -> None:
        lines = "fork p0 child=p1\nattach d1 p1\ndread d1 page=1 offset=0 length=8\nexit p1\n"
        assert (4, 5) in self.of(self.SETUP + lines)

    def test_an_unregister_is_about_the_pages_of_its_key(self) -> None:
        lines = """
            register d0 key=1 rw page=1 pages=1
            unregister d0 key=1
            discard p0 page={page} pages=1
        """
        for page, expected in ((0, []), (1, [(2, 4), (3, 4)])):
            program = script(RegistrationDriver, self.SETUP + lines.replace("{page}", str(page)))
            found = meetings(program)
            assert sorted({(e.first.operation, e.second.operation) for e in found}) == expected
            assert all(e.first.points < 10 for e in found if e.first.kind == Kind.UNREGISTER)

    def test_bringing_a_page_home_meets_the_end_of_its_device(self) -> None:
        lines = "read p0 page=0 offset=0 length=8\ndetach d0\n"
        away = "to_device d0 page=0 pages=1\n"
        assert self.of(self.SETUP + lines) == []
        assert self.of(self.SETUP + away + lines) == [(2, 3), (3, 4)]
        assert self.of(self.SETUP + away.replace("page=0", "page=1") + lines) == []

    def test_switches_lie_inside_of_both(self) -> None:
        lines = "dread d0 page=0 offset=0 length=8\ndiscard p0 page=0 pages=1\n"
        (meeting, *_) = meetings(script(FaultingDriver, self.SETUP + lines))
        there, back = meeting.switches(5, 200)
        assert (there.actor, there.operation, there.to) == (8, 2, 0)
        assert (back.actor, back.operation, back.to) == (0, 3, 8)
        assert 1 <= there.point <= meeting.first.points
        assert 1 <= back.point <= meeting.second.points
        assert len(list(meeting.switches(5, 100))) == 1
