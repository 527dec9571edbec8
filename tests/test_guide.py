"""The guide for new drivers does what it says.

`python tests/test_guide.py` finds the failures that it shows anew, and writes them there.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from driving import complaint, programs, schedule, taken
from test_readme import lastwriter, tidy

from adapters.examples.drivers.template import Template
from reference.host.run import run_program
from reference.program import Program
from reference.text import dump, parse

PAGE = Path(__file__).parents[1] / "docs" / "new-driver.md"
SPEC = "driver:mine.py:Mine"
IDEAS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
REPORTS = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
REDUCED = re.compile(r"^     \d+ operations reduced to (\d+) in \d+ runs\n", re.M)
GEOMETRY = "page_size=4096 pages=4 processes=2 devices=2 files=0 keys=0 jobs=0"


def shown_program(report: str) -> Program:
    """The program in the table of a report, with the switches that are told there."""
    rows = re.findall(r"^>? +(\d+)  (.*?)(?:  .*)?$", report, re.M)
    interrupted = re.findall(
        r"^ +(\w+) is interrupted at .* \(operation (\d+), point (\d+)\): (\w+) ", report, re.M
    )
    return parse(
        "\n".join(
            [
                "lastwriter 1",
                f"geometry {GEOMETRY}",
                *(f"switch {a} operation={o} point={p} to={b}" for a, o, p, b in interrupted),
                *(row for _, row in sorted((int(index), row) for index, row in rows)),
            ]
        )
    )


def test_the_template_is_right() -> None:
    switches = 0
    for seed, program in enumerate(programs(Template, 120, 5, pages=3, most=16)):
        scheduled = replace(program, schedule=schedule(("random", "pct")[seed % 2], seed))
        run = run_program(scheduled, Template)
        assert complaint(scheduled, run) is None, taken(scheduled, run)
        switches += len(run.switches)
    assert switches


@pytest.mark.parametrize(
    ("idea", "report"), list(zip(IDEAS, REPORTS, strict=False)), ids=["first", "second"]
)
def test_a_failure_is_printed_as_shown(tmp_path: Path, idea: str, report: str) -> None:
    (tmp_path / "mine.py").write_text(idea, "utf-8")
    program = shown_program(report)
    (path,) = re.findall(rf"^     again: lastwriter replay (\S+) {SPEC}$", report, re.M)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(dump(program), "utf-8")
    done = lastwriter("replay", path, SPEC, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    # replayed, it was not reduced
    assert tidy(done.stdout) == REDUCED.sub("", report)
    assert REDUCED.findall(report) == [str(len(program))]


@pytest.mark.parametrize(
    ("idea", "rule", "budget"),
    [
        (IDEAS[0], "I6", ["--programs", "60"]),
        (IDEAS[1], "A2", ["--programs", "400", "--seed", "2"]),
    ],
    ids=["first", "second"],
)
def test_an_idea_that_is_wrong_fails(
    tmp_path: Path, idea: str, rule: str, budget: list[str]
) -> None:
    (tmp_path / "mine.py").write_text(idea, "utf-8")
    done = lastwriter("certify", SPEC, *budget, folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"\nFAIL {rule}  " in done.stdout


def test_the_mended_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(IDEAS[2], "utf-8")
    failed = tmp_path / "lastwriter-out" / "failures" / "A2.lw"
    failed.parent.mkdir(parents=True)
    failed.write_text(dump(shown_program(REPORTS[1])), "utf-8")
    done = lastwriter("certify", SPEC, "--programs", "60", folder=tmp_path)
    assert done.returncode in {0, 3}, done.stdout + done.stderr
    assert "\nFAIL" not in done.stdout


def main() -> None:
    """Write the reports of the guide anew."""
    page = PAGE.read_text("utf-8")
    for idea, old in zip(IDEAS, REPORTS, strict=False):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "mine.py").write_text(idea, "utf-8")
            done = lastwriter("certify", SPEC, folder=folder)
        report = next(each for each in done.stdout.split("\n\n") if each.startswith("FAIL"))
        page = page.replace(f"```text\n{old}```", f"```text\n{tidy(report)}```")
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
