"""The README does what it says.

`python tests/test_readme.py` finds the failure that the README shows anew, and writes it there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reference.cheader import HEADER
from reference.program import Program
from reference.text import dump, parse

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", README.read_text("utf-8"), re.M))
PYTHON, C, ELSEWHERE = "A candidate in Python", "A candidate in C", "A candidate elsewhere"
BUDGET = ["--programs", "60", "--seed", "1"]
SECONDS = 120
REDUCED = re.compile(r"^     \d+ operations reduced to (\d+) in \d+ runs\n", re.M)


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of a section in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.DOTALL | re.MULTILINE)


def without_notifier(code: str) -> str:
    return code[: code.index("    def invalidate")]


def environment() -> dict[str, str]:
    """With `lastwriter` on the PATH, the width of the README, and no colours."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    plain = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "TTY_COMPATIBLE"}}
    return plain | {"PATH": path, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def lastwriter(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "conformance.command", *arguments], folder)


def shell(block: str, folder: Path) -> None:
    """Run a block as it stands, except that certifying is kept short."""
    for line in block.splitlines():
        words = line.split()
        if words[:2] == ["lastwriter", "certify"]:
            done = lastwriter(*words[1:], *BUDGET, folder=folder)
        else:
            done = run(["bash", "-c", line], folder)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the README's commands need of the source tree."""
    for name in ("include", "examples", "agent"):
        shutil.copytree(ROOT / "adapters" / name, tmp_path / "adapters" / name)
    return tmp_path


def test_a_candidate_in_python(tmp_path: Path) -> None:
    (code,) = blocks(PYTHON, "python")
    (tmp_path / "mine.py").write_text(code, "utf-8")
    (commands,) = blocks(PYTHON, "sh")
    shell(commands, tmp_path)


def test_a_candidate_without_its_notifier(tmp_path: Path) -> None:
    (code,) = blocks(PYTHON, "python")
    (tmp_path / "mine.py").write_text(without_notifier(code), "utf-8")
    done = lastwriter("certify", "mine.py:Mine", *BUDGET, folder=tmp_path)
    assert done.returncode == 1
    assert "\nFAIL I12  " in done.stdout


def shown_program(report: str) -> Program:
    """The program in the table of a report."""
    rows = re.findall(r"^>? +\d+  (.*?)(?:  .*)?$", report, re.M)
    geometry = "page_size=4096 pages=16 processes=1 devices=1 files=0 keys=0 jobs=0"
    return parse("\n".join(["lastwriter 1", f"geometry {geometry}", *rows]))


def test_the_failure_is_printed_as_shown(tmp_path: Path) -> None:
    (code,) = blocks(PYTHON, "python")
    (tmp_path / "mine.py").write_text(without_notifier(code), "utf-8")
    (shown,) = blocks(PYTHON, "text")
    program = shown_program(shown)
    (path,) = re.findall(r"^     again: lastwriter replay (\S+) mine.py:Mine$", shown, re.M)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(dump(program), "utf-8")
    done = lastwriter("replay", path, "mine.py:Mine", folder=tmp_path)
    assert done.returncode == 1
    # replayed, it was not reduced
    assert tidy(done.stdout) == REDUCED.sub("", shown)
    assert REDUCED.findall(shown) == [str(len(program))]


def test_a_candidate_in_c(checkout: Path) -> None:
    (commands,) = blocks(C, "sh")
    shell(commands, checkout)


def test_the_functions_of_the_interface() -> None:
    (declarations,) = blocks(C, "c")
    header = " ".join(HEADER.read_text("utf-8").split())
    functions = " ".join(declarations.split()).split(";")[:-1]
    assert len(functions) == 5
    for function in functions:
        assert f"{function.strip()};" in header


@contextmanager
def listening(command: str, folder: Path) -> Iterator[None]:
    """An agent that has said that it listens."""
    agent = subprocess.Popen(command.split(), cwd=folder, stdout=subprocess.PIPE, text=True)
    with agent:
        assert agent.stdout is not None
        assert agent.stdout.readline().startswith("listening on ")
        try:
            yield
        finally:
            agent.terminate()


def test_a_candidate_elsewhere(checkout: Path) -> None:
    there, here = blocks(ELSEWHERE, "sh")
    compiling, serving = there.splitlines()
    shell(compiling, checkout)
    with listening(serving, checkout):
        shell(here, checkout)


@pytest.mark.parametrize("section", [PYTHON, C, ELSEWHERE])
def test_plugging_in_is_short(section: str) -> None:
    for language in ("python", "sh", "c"):
        for block in blocks(section, language):
            assert block.count("\n") < 20


def test_verdicts_are_those_of_the_contract() -> None:
    contract = (ROOT / "docs" / "contract.md").read_text("utf-8")
    for verdict in ("PASS", "UNKNOWN"):
        (row,) = re.findall(rf"^\| {verdict} \| .*$", SECTIONS["Verdicts"], re.M)
        assert row in contract


def test_links_lead_somewhere() -> None:
    for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md"):
        links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text("utf-8"))
        assert [link for link in links if not (ROOT / link).exists()] == []


def test_ci_runs_the_two_commands() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    (extraction,) = re.findall(r"< <\((sed .*) README\.md\)", script)
    done = run(["bash", "-c", f"{extraction} README.md"], ROOT)
    assert done.stdout == blocks("Two commands", "sh")[0]
    assert done.stdout.count("\n") == 2


def tidy(report: str) -> str:
    """What is printed, as it is shown: without the spaces that fill lines."""
    return re.sub(r" +$", "", report, flags=re.M).strip("\n") + "\n"


def main() -> None:
    """Write the README's failure anew."""
    (code,) = blocks(PYTHON, "python")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mine.py").write_text(without_notifier(code), "utf-8")
        done = lastwriter("certify", "mine.py:Mine", "--seed", "3", folder=folder)
    reports = re.split(r"\n(?=FAIL |rule )", done.stdout)
    report = next(each for each in reports if " wrong value: page 0 word 0:" in each)
    section = SECTIONS[PYTHON]
    (old,) = blocks(PYTHON, "text")
    new = section.replace(f"```text\n{old}```", f"```text\n{tidy(report)}```")
    README.write_text(README.read_text("utf-8").replace(section, new), "utf-8")


if __name__ == "__main__":
    main()
