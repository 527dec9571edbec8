"""Candidates in Python: how they are named and loaded, and the example."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from adapters import linux
from adapters.candidate import Candidate, CandidateError, Stepwise
from adapters.examples.tiny import Tiny
from adapters.linux import Probe
from adapters.python import check_outcomes, describe, load_python, located
from adapters.registry import Known, Reach, known, open_candidate, reach_of
from reference.geometry import Geometry
from reference.operations import Flag, Kind, Operation
from reference.outcomes import Outcome, Status

MISBEHAVING = Path(__file__).with_name("misbehaving.py")


def misbehaving(name: str) -> str:
    return f"{MISBEHAVING}:{name}"


class TestLoading:
    @pytest.mark.parametrize(
        "spec",
        [
            "adapters.examples.tiny:Tiny",
            str(Path(__file__).parents[1] / "adapters" / "examples" / "tiny.py") + ":Tiny",
            misbehaving("factory"),
            misbehaving("ready_made"),
        ],
        ids=["class in module", "class in file", "factory", "object"],
    )
    def test_what_a_name_may_be(self, spec: str) -> None:
        assert describe(open_candidate(spec), spec).name == "tiny"

    def test_a_name_may_have_dots(self, tmp_path: Path) -> None:
        source = tmp_path / "outer.py"
        source.write_text(
            "from adapters.examples.tiny import Tiny\nclass Outer:\n    Inner = Tiny\n"
        )
        assert isinstance(load_python(f"{source}:Outer.Inner"), Tiny)

    def test_a_file_can_import_what_is_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "lastwriter_beside.py").write_text("from adapters.examples.tiny import Tiny\n")
        source = tmp_path / "mirror.py"
        source.write_text("from lastwriter_beside import Tiny\n")
        assert isinstance(load_python(f"{source}:Tiny"), Tiny)

    @pytest.mark.parametrize(
        ("spec", "problem"),
        [
            ("no.such.module:name", "no such module: no"),
            ("adapters.nowhere:name", "no such module: adapters.nowhere"),
            ("no/such/file.py:name", "no such file: no/such/file.py"),
            (misbehaving("Nobody"), "misbehaving.py has no Nobody"),
            ("adapters.examples.tiny:Tiny.x.y", "adapters.examples.tiny has no Tiny.x.y"),
            (misbehaving("number"), "int has no method describe"),
            (misbehaving("NoRun"), "NoRun has no method run"),
            (
                misbehaving("RaisesWhenMade"),
                r"making it raised RuntimeError: out of order \(/.*:\d+\)",
            ),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, spec: str, problem: str) -> None:
        with pytest.raises(CandidateError, match=problem) as caught:
            open_candidate(spec)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("source", "problem"),
        [
            ("x = 1\nx.y\n", r"raised AttributeError: .* \(/.*/mirror\.py:2\)"),
            ("import lastwriter_no_such\n", r"raised ModuleNotFoundError: .* \(/.*/mirror\.py:1\)"),
            ("def\n", r"raised SyntaxError: .* \(/.*/mirror\.py:1\)"),
            ("import sys\nsys.exit(3)\n", r"raised SystemExit: 3 \(/.*/mirror\.py:2\)"),
        ],
    )
    def test_an_import_that_raises(self, tmp_path: Path, source: str, problem: str) -> None:
        path = tmp_path / "mirror.py"
        path.write_text(source)
        with pytest.raises(CandidateError, match=f"importing .*mirror.py {problem}"):
            load_python(f"{path}:Mirror")

    def test_a_module_whose_own_import_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "lastwriter_broken.py").write_text("import lastwriter_no_such\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(
            CandidateError, match=r"ModuleNotFoundError: .*_no_such.*broken\.py:1\)"
        ):
            load_python("lastwriter_broken:Mirror")

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("RaisesInDescribe", r"describe raised LookupError: who am I\? \(.*\.py:\d+\)"),
            ("DescribesAsDict", "describe gave dict instead of a Description"),
            ("DescribesNonsense", "bad description: operations: no such operation: fly"),
        ],
    )
    def test_bad_descriptions(self, name: str, problem: str) -> None:
        spec = misbehaving(name)
        with pytest.raises(CandidateError, match=re.escape(f"{spec}: ") + problem):
            describe(open_candidate(spec), spec)


class TestSpecs:
    @pytest.mark.parametrize(
        ("spec", "reach"),
        [
            ("module:name", Reach.HERE),
            ("./file.py:name", Reach.HERE),
            ("./mirror.so", Reach.HERE),
            ("odd:name.so", Reach.HERE),
            ("reference:faulting", Reach.HERE),
            ("mutant:x", Reach.HERE),
            ("linux:process_vm", Reach.EXECUTABLE),
            ("tcp:127.0.0.1:80", Reach.REMOTE),
            ("unix:/run/mirror.so", Reach.REMOTE),
        ],
    )
    def test_forms(self, spec: str, reach: Reach) -> None:
        assert reach_of(spec) is reach

    @pytest.mark.parametrize("spec", ["", ":", "module", "module:", ":name", "file.py"])
    def test_what_is_none(self, spec: str) -> None:
        with pytest.raises(CandidateError, match="names no candidate; one is module:name, "):
            reach_of(spec)

    def test_unknown_mirrors_are_told_what_there_is(self) -> None:
        with pytest.raises(
            CandidateError, match=r"no reference mirror 'x'; there are .*faulting, "
        ):
            open_candidate("reference:x")
        with pytest.raises(CandidateError, match="no mutant 'x'; there are "):
            open_candidate("mutant:x")

    @pytest.mark.parametrize("model", ["faulting", "refcounting", "registration"])
    def test_reference_mirrors(self, model: str) -> None:
        spec = f"reference:{model}"
        assert describe(open_candidate(spec), spec).model == model

    def test_executables_cannot_be_loaded(self) -> None:
        with pytest.raises(CandidateError, match="linux:x is a program of its own"):
            open_candidate("linux:x")


class TestKnown:
    def test_lists_what_comes_with_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        probes = dict.fromkeys(linux.NAMES, Probe(available=True))
        probes["io_uring"] = Probe(False, "no ring")
        monkeypatch.setattr(linux, "probe", probes.__getitem__)
        found = {known.spec: known for known in known()}
        assert found["linux:process_vm"] == Known("linux:process_vm", available=True)
        assert found["linux:io_uring"] == Known("linux:io_uring", available=False, reason="no ring")
        mirrors = {spec for spec in found if spec.startswith("reference:")}
        assert mirrors >= {"reference:faulting", "reference:refcounting", "reference:registration"}
        assert all(found[spec].available for spec in mirrors)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError


class TestMessages:
    def test_where_nothing_was_raised(self) -> None:
        assert located(ValueError("a\n b")) == "ValueError: a b (somewhere)"
        assert located(ValueError()) == "ValueError (somewhere)"

    def test_exceptions_that_cannot_be_shown(self) -> None:
        assert located(Unprintable()) == "Unprintable: (its text cannot be had) (somewhere)"

    def test_plain_tuples_are_outcomes(self) -> None:
        read = Operation(Kind.READ, 0, 0, 0, 0, 0, length=8)
        (outcome,) = check_outcomes([read], [(1, 14, 0, b"")])
        assert outcome == Outcome(Status.FAULT, 14)
        assert isinstance(outcome, Outcome)


def at(kind: Kind, page: int = 0, offset: int = 0, length: int = 8, value: int = 0) -> Operation:
    return Operation(kind, 0, 0, 0, page, 0, offset=offset, length=length, value=value)


def mapping(page: int, pages: int, rights: Flag = Flag.READ | Flag.WRITE) -> Operation:
    return Operation(Kind.MAP, 0, 0, rights, page, pages)


class TestTiny:
    @pytest.fixture
    def tiny(self) -> Candidate:
        tiny = Tiny()
        tiny.reset(Geometry(pages=4, processes=1, devices=1))
        return tiny

    def outcome(self, tiny: Candidate, *operations: Operation) -> Outcome:
        return tiny.run(operations)[-1]

    def test_the_device_reads_what_the_cpu_wrote(self, tiny: Candidate) -> None:
        write = at(Kind.WRITE, 1, 4088, 16, 2**64 - 1)
        outcome = self.outcome(tiny, mapping(1, 2), write, at(Kind.DREAD, 1, 4088, 16))
        assert outcome == Outcome(Status.OK, 0, 16, b"\xff" * 8 + bytes(8))

    def test_an_access_stops_where_nothing_is_mapped(self, tiny: Candidate) -> None:
        for kind, data in ((Kind.DWRITE, b""), (Kind.READ, bytes(8))):
            outcome = self.outcome(tiny, mapping(0, 1), at(kind, 0, 4088, 16))
            assert outcome == Outcome(Status.FAULT, errno.EFAULT, 8, data)

    def test_rights_hold(self, tiny: Candidate) -> None:
        fault = Outcome(Status.FAULT, errno.EFAULT)
        assert self.outcome(tiny, mapping(0, 1, Flag.READ), at(Kind.WRITE)) == fault
        assert self.outcome(tiny, mapping(0, 1, Flag(0)), at(Kind.DREAD)) == fault

    def test_unmap_and_map_leave_nothing(self, tiny: Candidate) -> None:
        write, read = at(Kind.DWRITE, 0, value=5), at(Kind.READ)
        unmap = Operation(Kind.UNMAP, 0, 0, 0, 0, 4)
        assert self.outcome(tiny, mapping(0, 2), write, read).data[0] == 5
        assert self.outcome(tiny, mapping(0, 2), read) == Outcome(Status.OK, 0, 8, bytes(8))
        assert self.outcome(tiny, unmap, read).status == Status.FAULT

    def test_what_it_has_no_method_for_is_unsupported(self, tiny: Candidate) -> None:
        assert isinstance(tiny, Stepwise)
        assert self.outcome(tiny, at(Kind.DADD)) == Outcome(Status.UNSUPPORTED)
