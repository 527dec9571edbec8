"""`pytest --candidate`, as it is run by users, mostly from elsewhere."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy  # noqa: F401 (what pytester has loaded it forgets, and numpy loads only once)
import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
TINY = "adapters.examples.tiny:Tiny"
LOSSY = """
from adapters.examples.tiny import Tiny

class Mirror(Tiny):
    def dwrite(self, op):
        before = {page: bytes(memory) for page, (_, memory) in self.pages.items()}
        outcome = super().dwrite(op)
        for page, memory in before.items():
            self.pages[page][1][:] = memory
        return outcome
"""
TLS = ("--lw-certificate=c", "--lw-key=k", "--lw-authority=a")
SOUND = "from adapters.examples.tiny import Tiny as Mirror\n"
EXPECT = """
[[expect]]
rule = "{rule}"
reason = "it keeps no device writes"
link = "https://example.org/lossy"
"""


OWN_EVENT = """lastwriter 1
model faulting
geometry page_size=4096 pages=1 processes=1 devices=1 files=0 keys=0 jobs=0
map p0 rw page=0 pages=1
attach d0 p0
exclusive d0 page=0 pages=1
"""


class Suite:
    """pytest with the plugin, in a folder that is no checkout."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def run(self, spec: str, *options: str) -> pytest.RunResult:
        """In this process, which is quick."""
        return self.pytester.runpytest_inprocess(*self._words(spec, options))

    def apart(self, spec: str, *options: str) -> pytest.RunResult:
        """In a process of its own: for options that start more, and for several runs."""
        return self.pytester.runpytest_subprocess(*self._words(spec, options))

    def _words(self, spec: str, options: Sequence[str]) -> list[str]:
        few = ("--lw-programs=4", "--lw-shards=1", "--lw-allow-unknown")
        usual = (*few, "--lw-seed=3", "-Werror")
        plugins = ("-p", "conformance.plugin", "-p", "no:cacheprovider")
        return [*plugins, f"--candidate={spec}", *usual, *options]

    def mirror(self, source: str) -> str:
        (self.pytester.path / "mirror.py").write_text(source)
        return "mirror.py:Mirror"

    def expecting(self, rule: str) -> str:
        (self.pytester.path / "expect.toml").write_text(EXPECT.format(rule=rule))
        return "--lw-expect=expect.toml"

    def kept(self) -> set[str]:
        return {path.stem for path in self.pytester.path.glob("lastwriter-out/failures/*.lw")}


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return Suite(pytester)


@pytest.fixture
def checkout(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs pytest in the root of the checkout and gives what it printed."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> str:
        result = suite.pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)
        assert result.ret == pytest.ExitCode.OK
        return str(result.stdout)

    return run


def outcomes_of(result: pytest.RunResult) -> dict[str, int]:
    return result.parseoutcomes()


# -- correct candidates -----------------------------------------------------------------------


def test_a_correct_mirror_passes(suite: Suite) -> None:
    result = suite.run("reference:faulting", "-rs")
    assert result.ret == pytest.ExitCode.OK
    assert outcomes_of(result) == {"passed": 9, "skipped": 4}
    result.stdout.fnmatch_lines(
        [
            "candidate: reference:faulting (reference:faulting 1), model faulting",
            "lastwriter: *, seed 3, 1 shards of 4 programs for each group, 0 known failures",
            "*= lastwriter =*",
            "36 programs, * operations; the same again: --lw-seed 3",
            "SKIPPED * no rule of this group is part of the faulting model",
        ]
    )
    assert not suite.kept()
    assert not list(suite.pytester.path.glob("lastwriter-out/running-*"))


def test_processes_share_the_shards(suite: Suite) -> None:
    options = ("--lw-shards=2", "-kcontents or calls or faults")
    alone = suite.run("reference:registration", *options)
    shared = suite.apart("reference:registration", *options, "-n2")
    assert shared.ret == alone.ret == pytest.ExitCode.OK
    assert outcomes_of(shared)["passed"] == outcomes_of(alone)["passed"] > 0
    totals = [re.findall(r"\d.* operations;.*", str(each.stdout)) for each in (alone, shared)]
    assert totals[0]
    assert totals[0] == totals[1]


def test_rules_that_stay_unknown_fail_a_run(pytester: pytest.Pytester, suite: Suite) -> None:
    options = ("--lw-programs=1", "--lw-shards=1", "--lw-seed=3", "-kinvalidation")
    result = pytester.runpytest_subprocess(
        "-p", "conformance.plugin", "--candidate=reference:faulting", *options
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes_of(result) == {"passed": 1, "deselected": 12}
    result.stdout.fnmatch_lines(
        [
            "*= undecided rules =*",
            "* (invalidation) is UNKNOWN: exercised * times",
            "UNKNOWN is no pass: give them more (--lw-programs 2), or --lw-allow-unknown",
        ]
    )
    allowed = suite.run("reference:faulting", "--lw-programs=1", "-kinvalidation")
    assert allowed.ret == pytest.ExitCode.OK
    allowed.stdout.fnmatch_lines(["* (invalidation) is UNKNOWN: exercised * times"])
    allowed.stdout.no_fnmatch_line("UNKNOWN is no pass*")


def test_another_sync_model(suite: Suite) -> None:
    result = suite.run("reference:faulting", "--sync-model=refcounting", "-kmigration", "-rs")
    result.stdout.fnmatch_lines(
        ["*model refcounting", "SKIPPED * no rule of this group is part of the refcounting model"]
    )


def test_a_driver_breaks_a_rule_of_the_strict_profile_only(suite: Suite) -> None:
    failures = suite.pytester.path / "lastwriter-out" / "failures"
    failures.mkdir(parents=True)
    (failures / "own.lw").write_text(OWN_EVENT)
    options = ("driver:faulting", "--lw-programs=2", "-kknown or protocol")
    assert outcomes_of(suite.run(*options)) == {"passed": 2, "deselected": 11}
    strict = suite.run(*options, "--lw-profile=strict")
    assert outcomes_of(strict)["failed"] >= 1
    strict.stdout.fnmatch_lines(
        [
            "* test_known_failures?own? *",
            "FAIL I6 *",
            "     again: lastwriter replay * driver:faulting --profile strict",
        ]
    )


def test_what_a_candidate_lacks_is_the_reason_to_skip(suite: Suite) -> None:
    result = suite.run(TINY, "-rs")
    assert result.ret == pytest.ExitCode.OK
    assert outcomes_of(result) == {"passed": 6, "skipped": 7}
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED * the candidate has no exclusive, snapshot, to_device",
            "SKIPPED * the candidate has no fork",
            "SKIPPED * the candidate has no submit, wait",
        ]
    )


# -- broken candidates ------------------------------------------------------------------------


def test_a_broken_rule_is_shown_kept_and_tried_first_the_next_time(suite: Suite) -> None:
    spec = suite.mirror(LOSSY)
    result = suite.run(spec, "-kcontents")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (name,) = suite.kept()
    assert name.startswith("C1-")
    result.stdout.fnmatch_lines(
        [
            "FAIL C1 *",
            "     wrong value: page * allowed: *",
            "     operation * outcome *model: p0 page *",
            "* dwrite d0 page=*",
            "> *read *",
            f"     again: lastwriter replay lastwriter-out/failures/{name}.lw {spec}",
        ]
    )
    assert "Traceback" not in str(result.stdout)

    again = suite.run(spec, "-x", "--lw-seed=4")
    again.stdout.fnmatch_lines(["*, 1 known failures", f"*_ test_known_failures?{name}? _*"])
    assert outcomes_of(again) == {"failed": 1}

    suite.mirror(SOUND)
    fixed = suite.run(spec, "-kknown_failures")
    assert fixed.ret == pytest.ExitCode.OK
    assert outcomes_of(fixed)["passed"] == 1


def test_a_failure_can_be_replayed_and_is_in_the_example_database(suite: Suite) -> None:
    spec = suite.mirror(LOSSY)
    result = suite.run(spec, "-kcontents")
    (command,) = re.findall(r"again: lastwriter (.*)", str(result.stdout))
    replayed = suite.pytester.run(
        sys.executable, "-m", "conformance.command", *shlex.split(command)
    )
    assert replayed.ret == 1
    replayed.stdout.fnmatch_lines(["FAIL C1 *", f"     again: lastwriter {command}"])

    (name,) = suite.kept()
    (suite.pytester.path / "lastwriter-out" / "failures" / f"{name}.lw").unlink()
    again = suite.run(spec, "-kknown_failures")
    again.stdout.fnmatch_lines(["*_ test_known_failures?database-*? _*", "FAIL C1 *"])


def test_a_rule_of_another_group_is_found_in_passing(suite: Suite) -> None:
    spec = suite.mirror(LOSSY)
    result = suite.apart(spec, "-kcalls", "-n1")
    assert result.ret == pytest.ExitCode.OK
    (name,) = suite.kept()
    result.stdout.fnmatch_lines(
        [
            "*= rules broken in tests of other groups =*",
            "C1 (contents): wrong value: *",
            f"    again: lastwriter replay lastwriter-out/failures/{name}.lw {spec}",
        ]
    )
    assert suite.run(spec, "-kknown_failures").ret == pytest.ExitCode.TESTS_FAILED


# -- expected failures ------------------------------------------------------------------------


def test_an_expected_failure_is_reported_as_such(suite: Suite) -> None:
    spec = suite.mirror(LOSSY)
    options = (suite.expecting("C1"), "-rx", "-kexpected or known or contents or calls")
    for known in (0, 1):
        result = suite.apart(spec, *options)
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(
            [
                f"*, {known} known failures",
                "XFAIL *test_expected_failures?C1? - C1: it keeps no device writes "
                "(https://example.org/lossy)",
            ]
        )
        assert outcomes_of(result)["xfailed"] == 1 + known
        assert "rules broken in tests of other groups" not in str(result.stdout)


def test_an_expected_failure_that_does_not_fail_is_an_error(suite: Suite) -> None:
    result = suite.run(TINY, suite.expecting("C1"), "-kexpected")
    assert outcomes_of(result)["failed"] == 1
    result.stdout.fnmatch_lines(["?XPASS(strict)? C1: it keeps no device writes *"])


def test_an_expected_failure_can_be_seen_as_it_is(suite: Suite) -> None:
    result = suite.run(suite.mirror(LOSSY), suite.expecting("C1"), "-kexpected", "--runxfail")
    assert outcomes_of(result)["failed"] == 1
    result.stdout.fnmatch_lines(["FAIL C1 *"])


# -- usage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("no.such:Mirror", (), "ERROR: no such module: no"),
        ("tcp:127.0.0.1:1", (), "ERROR: no agent at tcp:127.0.0.1:1: Connection refused"),
        ("unix:agent", ("-n2",), "ERROR: unix:agent: an agent serves one client at a time; *-n"),
        (TINY, ("--lw-expect=nothing.toml",), "ERROR: nothing.toml: No such file or directory"),
        (TINY, ("--lw-out=/dev/null/out",), "ERROR: --lw-out /dev/null/out: Not a directory"),
        (TINY, ("--lw-key=k",), "ERROR: TLS needs --lw-certificate, --lw-key and --lw-authority"),
        (TINY, (*TLS,), f"ERROR: {TINY}: TLS is for tcp: addresses"),
        (TINY, ("--lw-profile=strict",), "ERROR: --lw-profile: tiny is no driver on the host, *"),
        (TINY, ("--lw-shards=0",), "*--lw-shards: '0' is not a number from 1"),
        (TINY, ("--lw-hang=nan",), "*--lw-hang: 'nan' is not a number of seconds from 0.01"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    suite: Suite, spec: str, options: tuple[str, ...], message: str
) -> None:
    result = suite.run(spec, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert "Traceback" not in str(result.stderr) + str(result.stdout)
    assert not list(suite.pytester.path.glob("lastwriter-out/*"))


def test_without_a_candidate_the_suite_is_skipped(suite: Suite) -> None:
    result = suite.pytester.runpytest_subprocess(
        *("-p", "conformance.plugin", "--pyargs", "conformance", "-rs")
    )
    assert result.ret == pytest.ExitCode.OK
    assert outcomes_of(result) == {"skipped": 13}
    result.stdout.fnmatch_lines(["SKIPPED * give a candidate: --candidate SPEC"])


def test_the_suite_can_be_named_as_a_package(suite: Suite) -> None:
    assert outcomes_of(suite.run(TINY, "--pyargs", "conformance", "-kaccess")) == {
        "passed": 1,
        "deselected": 12,
    }


def test_a_checkout_collects_either_its_tests_or_the_suite(checkout: Any, tmp_path: Path) -> None:
    """And naming the plugin beside the `conftest.py` that names it does no harm."""
    few = ("--collect-only", "-q", "--ignore-glob=*/test_[!c]*.py")  # of each folder some
    plain = re.findall(r"^(\S+)/\S+\.py::", checkout(*few), re.MULTILINE)
    assert set(plain) == {"tests"}
    options = (f"--candidate={TINY}", "--collect-only", "-q", "-p", "conformance.plugin")
    collected = checkout(*options, f"--lw-out={tmp_path}")
    suite = re.findall(r"^(\S+\.py::\S+)", collected, re.MULTILINE)
    assert {test.partition("::")[0] for test in suite} == {"conformance/test_candidate.py"}
    assert len(suite) == len(set(suite)) == 2 + 11 * 4


def test_a_checkout_tests_a_candidate(checkout: Any, tmp_path: Path) -> None:
    few = ("--lw-programs=1", "--lw-shards=1", "--lw-allow-unknown")
    options = (*few, f"--lw-out={tmp_path}", "-q")
    assert "6 passed, 7 skipped" in checkout("--candidate", TINY, *options)


def test_the_page_has_the_options_and_their_defaults(checkout: Any) -> None:
    page = (ROOT / "docs" / "pytest.md").read_text("utf-8")
    rows = re.findall(r"^\| `--(\S+?)(?: [A-Z]+)?` \| .*\| ([^|]*)\|$", page, re.MULTILINE)
    helped = re.search(r"^conformance of mirrors.*\n((?: .*\n)+)", checkout("--help"), re.MULTILINE)
    assert helped is not None
    options = re.split(r"^  --", helped[1], flags=re.MULTILINE)[1:]
    assert [name for name, _ in rows] == [re.split(r"[=\s]", option)[0] for option in options]
    for (name, default), option in zip(rows, options, strict=True):
        (stated,) = re.findall(r"\[(.*)\]", " ".join(option.split())) or [""]
        if name != "sync-model":
            assert default.strip(" `") == stated.removesuffix(".0"), name
