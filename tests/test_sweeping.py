"""`lastwriter sweep`: one program, and every single failure that it can meet."""

from __future__ import annotations

from pathlib import Path

import pytest
from commanding import failures_in, lastwriter

from adapters.worker import InProcess
from conformance.examine import Examiner
from conformance.store import load_program
from conformance.sweeping import Swept, sweep_failures, table_of
from reference.model import judge
from reference.schedule import Injection
from reference.text import parse
from reference.trace import Violation

BAD = Path(__file__).with_name("bad_drivers.py")
MUTANT = "mutant:partial-fault-unwind"
BASE = "driver:refcounting"
REGISTERED = """\
lastwriter 1
model refcounting
geometry page_size=4096 pages=2 processes=1 devices=1 files=0 keys=1 jobs=0
map p0 rw page=0 pages=2
attach d0 p0
write p0 page=1 offset=0 length=8 value=0x100000
register d0 key=1 rw page=0 pages=2
dread d0 key=1 page=0 offset=0 length=8
"""
FAULTED = """\
lastwriter 1
geometry page_size=4096 pages=1 processes=1 devices=1 files=0 keys=0 jobs=0
map p0 rw page=0 pages=1
attach d0 p0
write p0 page=0 offset=0 length=8 value=0x100000
to_device d0 page=0 pages=1
dread d0 page=0 offset=0 length=8
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the programs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "registered.lw").write_text(REGISTERED)
    (tmp_path / "faulted.lw").write_text(FAULTED)
    return tmp_path


def sweep(place: Path, file: str, spec: str) -> tuple[int, str]:
    done = lastwriter(place, "sweep", file, spec, "--in-process")
    assert done.errors == ""
    return done.status, done.out


def bad(name: str) -> str:
    return f"driver:{BAD}:{name}"


class TestCommand:
    def test_a_correct_driver_bears_every_failure(self, place: Path) -> None:
        status, out = sweep(place, "registered.lw", BASE)
        assert status == 0
        lines = [line.split() for line in out.splitlines()]
        assert lines[:3] == [["failing", "n-th"], ["none", "PASS"], ["allocation", "1-2", "PASS"]]
        assert out.endswith("\n3 failures injected one by one, 0 of them broke a rule\n")
        assert "FAIL" not in out

    def test_what_breaks_a_rule_is_told_reduced_and_kept(self, place: Path) -> None:
        status, out = sweep(place, "registered.lw", MUTANT)
        assert status == 1
        assert out.startswith("FAIL W5 ")
        assert "     a failure is injected, allocation 2: d0 in operation 2 " in out
        lines = [line.split() for line in out.splitlines()]
        assert ["allocation", "1", "PASS"] in lines
        assert ["allocation", "2", "FAIL", "W5"] in lines
        assert out.endswith("\n3 failures injected one by one, 1 of them broke a rule\n")
        (name,) = failures_in(place)
        path = f"lastwriter-out/failures/{name}"
        assert f"     again: lastwriter replay {path} {MUTANT}\n" in out
        kept = load_program(place / path)
        assert len(kept) == 3
        assert kept.schedule.injections == (Injection("allocation", 2),)
        assert lastwriter(place, "replay", path, MUTANT, "--in-process").status == 1
        assert lastwriter(place, "replay", path, BASE, "--in-process").status == 0

    def test_a_program_that_fails_anyway(self, place: Path) -> None:
        status, out = sweep(place, "faulted.lw", bad("Raises"))
        assert status == 1
        assert "FAIL R4" in out
        assert "\nthe program fails as it is; " in out

    def test_the_folder_can_be_chosen(self, place: Path) -> None:
        done = lastwriter(place, "sweep", "registered.lw", MUTANT, "--in-process", "--out", "there")
        assert done.status == 1
        assert len(list((place / "there" / "failures").iterdir())) == 1

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (
                ("faulted.lw", "reference:faulting"),
                "reference:faulting: failures can be injected only into drivers on the host",
            ),
            (("none.lw", BASE), "none.lw: No such file or directory"),
            (("faulted.lw", BASE), "faulted.lw: not for refcounting: "),
            (("faulted.lw",), "Missing argument 'CANDIDATE'."),
            (("faulted.lw", "driver:faulting", "--out", "faulted.lw"), "--out faulted.lw: "),
        ],
    )
    def test_bad_usage(self, arguments: tuple[str, ...], problem: str, place: Path) -> None:
        done = lastwriter(place, "sweep", *arguments, "--in-process")
        assert done.status == 2
        assert done.error.startswith(problem)


class TestSweep:
    def test_each_failure_is_met_once(self) -> None:
        program = parse(FAULTED)
        with InProcess("driver:faulting") as runner:
            swept = list(sweep_failures(program, Examiner(runner)))
            asked = runner.run(program).hosted
        assert asked is not None
        assert (swept[0].site, swept[0].number) == ("", 0)
        expected = [(site, n + 1) for site in asked.asked for n in range(asked.asked[site])]
        assert sorted((each.site, each.number) for each in swept[1:]) == sorted(expected)
        assert not any(each.rule or each.failure for each in swept)

    def test_a_failure_that_breaks_the_driver_down_is_one_of_many(self) -> None:
        program = parse(FAULTED)
        with InProcess("driver:faulting") as runner:
            right = [(each.site, each.number) for each in sweep_failures(program, Examiner(runner))]
        with InProcess(bad("CannotFail")) as runner:
            swept = list(sweep_failures(program, Examiner(runner)))
        assert [(each.site, each.number) for each in swept] == right
        broken = [each for each in swept if each.rule]
        assert {each.rule for each in broken} == {"R4"}
        assert 0 < len(broken) < len(swept)

    def test_nothing_is_injected_if_it_breaks_down_anyway(self) -> None:
        with InProcess(bad("RaisesAtOnce")) as runner:
            (only,) = sweep_failures(parse(FAULTED), Examiner(runner))
        assert (only.site, only.rule) == ("", "R4")
        assert only.failure is not None

    def test_three_programs_are_reduced_for_each_rule(self) -> None:
        with InProcess(bad("Raises")) as runner:
            program = parse(FAULTED + "reclaim p0 page=0 pages=1\n")
            swept = list(sweep_failures(program, Examiner(runner)))
            failing = sum(each.violation is not None for each in swept)
            assert sum(each.failure is not None for each in swept) == min(3, failing) > 0
            for each in swept:
                if each.failure is not None:
                    assert judge(runner.run(each.failure.program)).violation is not None

    def test_numbers_with_one_outcome_share_a_row(self) -> None:
        broken = Violation("W5", 0, "left")
        swept = [
            Swept("", 0, None, None),
            *(Swept("copy", number, None, None) for number in (1, 2, 3)),
            Swept("copy", 4, broken, None),
            Swept("wait", 1, broken, None),
        ]
        assert list(table_of(swept)) == [
            ("none", "", ""), ("copy", "1-3", ""), ("copy", "4", "W5"), ("wait", "1", "W5"),
        ]  # fmt: skip
