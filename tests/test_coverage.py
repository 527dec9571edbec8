"""What of the protocol a run has reached, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from commanding import lastwriter
from driving import describe, programs, schedule
from rich.console import Console

from conformance.certificate import Certificate, Identity, lengths_of
from conformance.coverage import (
    HEADS,
    MARK,
    coverage_rows,
    coverage_table,
    load_certificate,
    never_met,
)
from conformance.store import LoadError
from conformance.verdicts import Verdict, results
from reference.description import Description
from reference.drivers import DRIVERS
from reference.host.run import run_program
from reference.protocol import check
from reference.protocol.coverage import REQUIRED
from reference.rules import rules_for
from reference.syncmodels import Sync

SOME = {
    "I12/UNMAP/blockable/present": 12,
    "I12/UNMAP/blockable/huge": 3,
    "I12/CLEAR/nonblock/present": 1234,
    "S1/UNMAP/blockable/present": 2,
    "I9": 40,
    "C1/cpu sees device": 7,
}


def description(model: Sync, **changes: object) -> Description:
    found = msgspec.structs.replace(describe(DRIVERS[model]), schedules=True)
    return msgspec.structs.replace(found, **changes)


def certificate(
    exercised: Mapping[str, int], model: Sync = Sync.FAULTING, **changes: object
) -> Certificate:
    told = description(model, **changes)
    rules = results(told, model, exercised, {})
    return Certificate(
        lastwriter="1", candidate=Identity(spec="driver:x", name="x", version="1"), model=model,
        profile=None, verdict=Verdict.UNKNOWN, surprises=[], interrupted=False, problem="",
        rules=rules, failures=[], failing_programs=0, expected=[], programs=1, operations=1,
        sweep_reads=0, lengths=lengths_of(Counter()), exhaustive=[], pct=[], seed=0, jobs=1,
        budget="1 programs", in_process=True, started="", seconds=1.0, versions={},
        capabilities=told,
    )  # fmt: skip


def shown(*given: Certificate) -> list[list[str]]:
    """The words of each line of the table."""
    console = Console(width=200)
    with console.capture() as capture:
        console.print(coverage_table(given))
    return [line.split() for line in capture.get().splitlines()]


def test_a_row_is_a_rule_an_event_and_a_flag() -> None:
    rows = {row[:3]: row for row in coverage_rows(certificate(SOME))}
    unmap = rows["I12", "UNMAP", "blockable"]
    assert (unmap.states, unmap.total) == ({"present": 12, "huge": 3}, 15)
    assert rows["I12", "CLEAR", "nonblock"].states == {"present": 1234}
    assert rows["I9", "", ""].total == 40
    assert not any(row.rule == "C1" for row in rows.values()), "contents are no protocol"


def test_rows_are_in_the_order_of_the_contract_and_of_the_events() -> None:
    rows = coverage_rows(certificate(SOME))
    assert [row.rule for row in rows if row.total] == ["S1", "I9", "I12", "I12"]
    assert [row.event for row in rows if row.rule == "I12"][:3] == ["UNMAP", "CLEAR", "CLEAR"]


def test_what_must_be_met_and_was_not_is_marked() -> None:
    rows = coverage_rows(certificate(SOME))
    unmap = next(row for row in rows if row[:3] == ("I12", "UNMAP", "blockable"))
    assert unmap.lacking == {"shared", "device", "exclusive"}
    assert unmap.cells()[HEADS.index("shared")] == MARK
    assert unmap.cells()[HEADS.index("huge")] == "3"
    migrate = next(row for row in rows if row[:2] == ("I12", "MIGRATE"))
    assert migrate.cells()[-1] == MARK, "any state would do"
    assert "I12 UNMAP blockable shared" in never_met(rows)
    assert "I12 MIGRATE blockable any state" in never_met(rows)
    assert {"L2", "W2 sent back", "B6 any event nonblock any state"} & {*never_met(rows)} == {
        "L2"
    }, "the others have not come up at all"


def test_what_the_driver_cannot_do_is_not_asked_for() -> None:
    few = description(Sync.FAULTING).operations - {"to_device"}
    rows = coverage_rows(certificate(SOME, operations=few))
    unmap = next(row for row in rows if row[:3] == ("I12", "UNMAP", "blockable"))
    assert unmap.lacking == {"shared", "exclusive"}


def test_everything_met_marks_nothing() -> None:
    every = {cell.replace("*", "UNMAP" if cell.startswith("B6") else "present", 1): 20
             for cell in REQUIRED[Sync.REFCOUNTING]}  # fmt: skip
    every = {cell.replace("*", "present"): count for cell, count in every.items()}
    assert never_met(coverage_rows(certificate(every, Sync.REFCOUNTING))) == []


def test_the_table_names_rules_once_and_the_model_of_each_row() -> None:
    lines = shown(certificate(SOME), certificate({"S4": 5}, Sync.REGISTRATION))
    text = "\n".join(map(" ".join, lines))
    assert text.count("I12") == 1
    assert "UNMAP yes faulting" in text
    assert "CLEAR no faulting 1,234 1,234" in text
    assert "S4 registration 5" in text


@pytest.mark.parametrize("name", DRIVERS)
def test_real_counts_are_all_shown(name: str) -> None:
    driver = DRIVERS[name]
    exercised: dict[str, int] = {}
    for seed, program in enumerate(programs(driver, 20, 3, pages=3, most=12)):
        run = run_program(replace(program, schedule=schedule("random", seed)), driver)
        for cell, count in check(run.record, driver.model)[1].items():
            exercised[cell] = exercised.get(cell, 0) + count
    rows = coverage_rows(certificate(exercised, driver.model))
    left_out = {"G7"}  # counted by what contents show as well
    rules = {rule.id for rule in rules_for(driver.model)} - left_out
    expected = {cell: n for cell, n in exercised.items() if cell.split("/")[0] in rules}
    assert sum(row.total for row in rows) == sum(expected.values())


class TestCommand:
    def test_a_certificate_of_a_driver(self, tmp_path: Path) -> None:
        (tmp_path / "c.json").write_text(certificate(SOME).to_json())
        assert load_certificate(tmp_path / "c.json") == certificate(SOME)
        done = lastwriter(tmp_path, "rules", "--coverage", "c.json", COLUMNS="60")
        assert (done.status, done.errors) == (0, "")
        assert "1,234" in done.out, "nothing is cut off"
        assert f"{MARK} must be met for a PASS, and never was: " in done.out
        assert "I12 UNMAP blockable shared" in done.out

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (b"{}", "c.json: no certificate: "),
            (b"\xff", "c.json: no certificate: "),
            (None, "c.json: No such file or directory"),
        ],
    )
    def test_what_is_no_certificate(self, data: bytes | None, error: str, tmp_path: Path) -> None:
        if data is not None:
            (tmp_path / "c.json").write_bytes(data)
        done = lastwriter(tmp_path, "rules", "--coverage", "c.json")
        assert done.status == 2
        assert done.error.startswith(error)

    def test_a_closed_mirror_shows_no_protocol(self, tmp_path: Path) -> None:
        (tmp_path / "c.json").write_text(certificate({}, schedules=False).to_json())
        with pytest.raises(LoadError, match="driver:x is no driver on the host"):
            load_certificate(tmp_path / "c.json")

    def test_one_rule_has_no_coverage_of_its_own(self, tmp_path: Path) -> None:
        done = lastwriter(tmp_path, "rules", "I12", "--coverage", "c.json")
        assert (done.status, done.error) == (2, "--coverage is about all rules: leave the rule out")
