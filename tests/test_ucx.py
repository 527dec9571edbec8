"""The registration cache of UCX: compiled on the spot, certified, with what it is known for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commanding import lastwriter
from linux_agents import ERROR, FAULT, OK, Agent, read, statuses

from adapters import ucx
from adapters.candidate import CandidateError
from adapters.compiler import cache_folder
from conformance.verdicts import Verdict
from reference.description import Description
from reference.outcomes import Outcome, decode_wait

FINDINGS = Path(__file__).parents[1] / "docs" / "findings"


@pytest.fixture(scope="module")
def description() -> Description:
    """What it says of itself; compiles it, if it is the first to ask."""
    found = ucx.probe("rcache")
    if found.description is None:
        pytest.skip(found.reason)
    return found.description


@pytest.fixture(scope="module")
def rcache(description: Description) -> Iterator[Agent]:
    agent = Agent("ucx:rcache")
    yield agent
    agent.close()


def test_what_is_missing_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A compiler that finds no headers of UCX stands for a machine without."""
    compiler = tmp_path / "cc"
    compiler.write_text(
        "#!/bin/sh\necho 'x.c:1: fatal error: No such file or directory' >&2\nexit 1"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    found = ucx.probe("rcache")
    assert not found.available
    assert found.reason == (
        "ucx:rcache: UCX or its headers are not installed (apt install libucx-dev)"
    )


def test_there_is_one_mirror_of_ucx() -> None:
    with pytest.raises(CandidateError, match="no mirror of UCX 'x'; there is rcache"):
        ucx.executable("x")


@pytest.mark.usefixtures("description")
def test_it_is_compiled_once() -> None:
    path = ucx.executable("rcache")
    assert path.parent == cache_folder() / "ucx"
    before = path.stat().st_mtime_ns
    assert ucx.executable("rcache") == path
    assert path.stat().st_mtime_ns == before


def test_it_says_what_it_is(description: Description) -> None:
    assert (description.name, description.keyed, description.keys) == ("ucx:rcache", True, 8)
    assert any(note.startswith("UCX ") for note in description.notes)
    assert "remap" in description.operations or "8820" in description.left_out["remap"]


def test_the_cache_hears_of_what_is_hooked(rcache: Agent) -> None:
    again = """unregister d0 key=1
        {0}
        register d0 key=1 rw page=0 pages=2
        dread d0 page=0 offset=0 length=8 key=1\n"""
    outcomes = rcache.run("""map p0 rw page=0 pages=2
        attach d0 p0
        register d0 key=1 rw page=0 pages=2
        dwrite d0 page=0 offset=0 length=8 value=0x5 key=1
        """ + "".join(map(again.format, (
            "discard p0 page=0 pages=1",
            "map p0 rw page=0 pages=2\nwrite p0 page=0 offset=0 length=8 value=0x6",
            "unmap p0 page=0 pages=1\nmap p0 rw page=0 pages=1",
        ))))  # fmt: skip
    reads = [outcome for outcome in outcomes if outcome.data]
    assert reads == [read(0), read(6), read(0)]
    assert set(statuses(outcomes)) == {OK}


def test_keys_hold_regions_and_nothing_more(rcache: Agent) -> None:
    outcomes = rcache.run("""map p0 rw page=0 pages=3
        attach d0 p0
        register d0 key=1 rw page=0 pages=3
        register d0 key=2 r page=1 pages=1
        dread d0 page=1 offset=0 length=8 key=2
        dread d0 page=0 offset=0 length=8 key=2
        dwrite d0 page=1 offset=0 length=8 value=0x1 key=2
        register d0 key=3 rw page=2 pages=2
        unregister d0 key=2
        dread d0 page=1 offset=0 length=8 key=2
        dwrite d0 page=1 offset=0 length=8 value=0x7 key=1 job=1
        dread d0 page=1 offset=0 length=8 key=2 job=1
        submit d0 job=1
        wait d0 job=1
        read p0 page=1 offset=0 length=8""")
    assert outcomes[4:8] == [
        read(0), Outcome(FAULT, 14), Outcome(FAULT, 14), Outcome(ERROR, 14)
    ]  # fmt: skip
    assert outcomes[9] == Outcome(FAULT, 14)
    assert decode_wait(outcomes[-2].data, 2) == [Outcome(OK, 0, 8), Outcome(FAULT, 14)]
    assert outcomes[-1] == read(7)


def test_a_child_starts_with_an_empty_cache(rcache: Agent) -> None:
    outcomes = rcache.run("""map p0 rw page=0 pages=1
        attach d0 p0
        register d0 key=1 rw page=0 pages=1
        dwrite d0 page=0 offset=0 length=8 value=0x5 key=1
        fork p0 child=p1
        attach d1 p1
        unmap p1 page=0 pages=1
        map p1 rw page=0 pages=1
        register d1 key=1 rw page=0 pages=1
        dwrite d1 page=0 offset=0 length=8 value=0x6 key=1
        dread d0 page=0 offset=0 length=8 key=1
        read p1 page=0 offset=0 length=8""")
    assert outcomes[-2:] == [read(5), read(6)]


@pytest.mark.usefixtures("description")
def test_it_passes_but_for_what_is_known(tmp_path: Path) -> None:
    """The saved programs run first, so that what is expected does happen."""
    kept = tmp_path / "lastwriter-out" / "failures"
    kept.mkdir(parents=True)
    for number, path in enumerate(sorted(FINDINGS.glob("ucx-*.lw"))):
        (kept / f"known-{number}.lw").write_text(path.read_text("utf-8"), "utf-8")
    expected = FINDINGS / "ucx-rcache.toml"
    done = lastwriter(
        tmp_path, "certify", "ucx:rcache", "--programs", "20", "--expect", str(expected)
    )
    assert (done.errors, done.certificate.surprises) == ("", []), done.out
    failed = {each.rule for each in done.certificate.rules if each.verdict is Verdict.FAIL}
    assert failed == {"A1", "C1", "C2", "I12"}
