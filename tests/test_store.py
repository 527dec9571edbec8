"""Failing programs on disk: kept, found again, and never in the way."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path

import pytest
from generated import describe
from hypothesis.database import InMemoryExampleDatabase
from mirror_programs import run, script

from conformance.examine import Failure, as_found
from conformance.store import (
    LoadError,
    Store,
    file_name,
    load_program,
    obstacle,
    runnable,
    write_atomically,
)
from reference.description import Description
from reference.mirrors import MIRRORS, MUTANTS
from reference.model import judge
from reference.program import Program
from reference.syncmodels import Sync
from reference.text import dump, parse
from reference.trace import Trace

HEADER = "lastwriter 1\nmodel faulting\ngeometry page_size=4096 pages=4 processes=1 devices=1 "


@pytest.fixture
def failure() -> Failure:
    mutant = MUTANTS["overlay-missed"]
    mirror = mutant.make()
    program = script(mirror, mutant.sequence)
    trace = Trace(program, run(mirror, program))
    violation = judge(trace).violation
    assert violation is not None
    return as_found(trace, violation)


@pytest.fixture
def database() -> InMemoryExampleDatabase:
    return InMemoryExampleDatabase()


def store_at(folder: Path, database: InMemoryExampleDatabase, spec: str = "mine:Mine") -> Store:
    return Store(folder, spec, Sync.FAULTING, database)


class TestKeeping:
    def test_the_file_says_what_is_wrong(
        self, failure: Failure, database: InMemoryExampleDatabase, tmp_path: Path
    ) -> None:
        path = store_at(tmp_path / "failures", database).add(failure)
        assert path == tmp_path / "failures" / file_name(failure)
        assert re.fullmatch(r"I12-[0-9a-f]{8}\.lw", path.name)
        text = path.read_text()
        assert "# I12: When an invalidation returns" in text
        assert "# wrong value: page 0 word 0: 0x100000, allowed: 0x0\n" in text
        assert "# candidate mine:Mine\n" in text
        assert text.endswith("dread d0 page=0 offset=0 length=8  # breaks the rule\n")
        assert replace(load_program(path), comments=()) == failure.program

    def test_messages_of_many_lines_become_one(
        self, failure: Failure, database: InMemoryExampleDatabase, tmp_path: Path
    ) -> None:
        long = replace(failure.violation, message="crash: killed\nlast output:\n" + "x\n" * 5000)
        store = store_at(tmp_path, database)
        path = store.add(replace(failure, violation=long, unstable=True))
        assert "# crash: killed\n# candidate mine:Mine; unstable\n" in path.read_text()
        assert list(store.load()) == [failure.program]

    def test_the_name_does_not_depend_on_the_seed(self, failure: Failure) -> None:
        other = replace(failure, program=replace(failure.program, seed=99))
        longer = failure.program.with_operations(failure.program.operations * 2)
        assert file_name(other) == file_name(failure)
        assert file_name(replace(failure, program=longer)) != file_name(failure)

    def test_it_is_found_again_in_the_folder_or_the_database(
        self, failure: Failure, database: InMemoryExampleDatabase, tmp_path: Path
    ) -> None:
        store = store_at(tmp_path / "a", database)
        path = store.add(failure)
        assert list(store.named()) == [(path.stem, failure.program)]
        ((name, program),) = store_at(tmp_path / "b", database).named()
        assert name.startswith("database-")
        assert program == failure.program
        fresh = store_at(tmp_path / "a", InMemoryExampleDatabase())
        assert list(fresh.load()) == [failure.program]

    def test_candidates_and_models_are_kept_apart(
        self, failure: Failure, database: InMemoryExampleDatabase, tmp_path: Path
    ) -> None:
        store_at(tmp_path / "a", database).add(failure)
        assert not list(store_at(tmp_path / "b", database, "other:Other").load())
        other = Store(tmp_path / "b", "mine:Mine", Sync.REGISTRATION, database)
        assert not list(other.load())

    def test_what_cannot_be_read_is_passed_over(
        self, failure: Failure, database: InMemoryExampleDatabase, tmp_path: Path
    ) -> None:
        store = store_at(tmp_path, database)
        store.add(failure)
        (tmp_path / "A1-00000000.lw").write_text("lastwriter 2\n")
        (tmp_path / "A1-00000001.lw").write_bytes(b"\xff\xfe")
        (tmp_path / "A1-00000002.lw").mkdir()
        for data in (b"", b"LWPROG", b"\0" * 80):
            database.save(store.key, data)
        assert list(store.load()) == [failure.program]

    def test_the_database_is_hypothesis_own(
        self, failure: Failure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Store(tmp_path / "a", "mine:Mine", Sync.FAULTING).add(failure)
        assert (tmp_path / ".hypothesis" / "examples").is_dir()
        again = Store(tmp_path / "b", "mine:Mine", Sync.FAULTING)
        assert list(again.load()) == [failure.program]


class TestLoading:
    def test_both_forms(self, failure: Failure, tmp_path: Path) -> None:
        text, packed = tmp_path / "a.lw", tmp_path / "running-1.lwb"
        text.write_text(dump(failure.program))
        packed.write_bytes(failure.program.to_bytes() + b"what was there before")
        assert load_program(text) == load_program(packed) == failure.program

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            (b"", ":1:1: "),
            (b"lastwriter 2\n", ":1:12: program of version 2, this is 1"),
            (HEADER.encode() + b"\nread p0 page=0\n", ":4:15: expected offset="),
            (b"lastwriter 1\nfly p0\n", ":2:1: unknown operation 'fly'"),
            (b"lastwriter 1\nread p0 page=16 offset=0 length=8\n", ":2:1: "),
            (b"lastwriter 1\nread p0 page=15 offset=4088 length=16\n", ":2:1: "),
            (b"lastwriter 1\nread p2 page=0 offset=0 length=8\n", ":2:1: process 2 does not exist"),
            (b"\x7fELF\0\1\2\xff", ": byte 7 is no UTF-8 text"),
            (b"\0" * 100, ":1:1: "),
            (b"LWPROG" + b"\0" * 10, ": a packed program has "),
            (b"LWPROG" + b"\xff" * 100, ": packed program of version 65535, this is 1"),
        ],
    )
    def test_what_is_wrong_is_said_with_its_place(
        self, data: bytes, problem: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "bad.lw"
        path.write_bytes(data)
        with pytest.raises(LoadError) as caught:
            load_program(path)
        assert str(caught.value).startswith(f"{path}{problem}")
        assert "\n" not in str(caught.value)

    def test_packed_programs_are_checked_too(self, failure: Failure, tmp_path: Path) -> None:
        operations = failure.program.operations
        program = failure.program.with_operations((operations[-1], *operations))
        path = tmp_path / "bad.lwb"
        path.write_bytes(program.to_bytes())
        with pytest.raises(LoadError, match="operation 0: device 0 is not attached"):
            load_program(path)

    @pytest.mark.parametrize(
        ("name", "problem"), [("none.lw", "No such file or directory"), (".", "Is a directory")]
    )
    def test_files_that_cannot_be_read(self, name: str, problem: str, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match=f"{re.escape(str(tmp_path))}.*: {problem}"):
            load_program(tmp_path / name)


class TestWriting:
    def test_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        write_atomically(path, "first")
        write_atomically(path, "second")
        assert path.read_text() == "second"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        ("place", "error"), [("no/such/folder", errno.ENOENT), ("file/x", errno.ENOTDIR)]
    )
    def test_or_not_at_all(self, place: str, error: int, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("here")
        with pytest.raises(OSError, match=re.escape(str(tmp_path / place))) as caught:
            write_atomically(tmp_path / place, "text")
        assert caught.value.errno == error
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_what_is_in_its_place_stays(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with pytest.raises(IsADirectoryError):
            write_atomically(tmp_path / "a", "text")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def program_of(text: str, keys: int = 0) -> Program:
    return parse(f"{HEADER}files=0 keys={keys} jobs=0\n{text}\n")


class TestWhoCanRunIt:
    @pytest.mark.parametrize(
        ("description", "problem"),
        [
            (describe(), None),
            (describe(page_sizes=(65536,)), "it has no pages of 4096 bytes"),
            (describe(devices=0), "it has 0 devices, not 1"),
            (describe(operations=frozenset({"map"})), "it has no attach, dread"),
            (
                describe(page_sizes=(4096, 65536), only_at={"dread": (65536,)}),
                "it has no dread",
            ),
            (describe(keyed=True), "its device accesses need keys"),
        ],
    )
    def test_what_is_in_the_way(self, description: Description, problem: str | None) -> None:
        program = program_of("attach d0 p0\ndread d0 page=0 offset=0 length=8")
        assert obstacle(program, description) == problem
        assert runnable(program, description, Sync.FAULTING) == (problem is None)

    def test_programs_of_another_model_are_not_for_it(self) -> None:
        program = program_of("map p0 rw page=0 pages=1")
        assert not runnable(program, describe(), Sync.REGISTRATION)

    def test_keys(self) -> None:
        program = program_of("attach d0 p0\nregister d0 key=1 rw page=0 pages=1\n"
                             "dread d0 page=0 offset=0 length=8 key=1", keys=1)  # fmt: skip
        assert obstacle(program, describe(keyed=True)) is None
        assert obstacle(program, MIRRORS["faulting"]().describe()) == "it has 0 keys, not 1"
