"""The negative controls fail, each by the rule that is given in advance and by no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commanding import lastwriter
from linux_agents import ERROR, FAULT, OK, Agent, check_available, read

from adapters.linux import CONTROLS, probe
from conformance.store import load_program
from conformance.verdicts import Verdict
from reference.outcomes import Outcome, decode_wait

DOCUMENT = Path(__file__).parents[1] / "docs" / "candidates.md"


@pytest.fixture
def control(request: pytest.FixtureRequest) -> Iterator[Agent]:
    check_available(request.param)
    agent = Agent(request.param)
    yield agent
    agent.close()


def test_the_rules_are_given_in_advance() -> None:
    text = DOCUMENT.read_text("utf-8")
    for name, rule in CONTROLS.items():
        assert f"| `linux:{name}` | {rule} |" in text
        found = probe(name)
        if found.description is not None:
            assert f"a negative control: it must fail {rule}" in found.description.notes


@pytest.mark.parametrize(("name", "rule"), CONTROLS.items())
def test_it_fails_by_that_rule_alone(name: str, rule: str, tmp_path: Path) -> None:
    check_available(name)
    done = lastwriter(tmp_path, "certify", f"linux:{name}", "--seed", "7", "--programs", "12")
    assert (done.status, done.errors) == (1, ""), done.out
    failed = {each.rule for each in done.certificate.rules if each.verdict is Verdict.FAIL}
    assert failed == {rule}
    for record in done.certificate.failures:
        path = tmp_path / "lastwriter-out" / record.file
        assert record.operations == len(load_program(path)) <= 6


@pytest.mark.parametrize("control", ["vmsplice"], indirect=True)
def test_a_pipe_keeps_pages_that_the_process_has_left(control: Agent) -> None:
    outcomes = control.run("""map p0 rw page=0 pages=2
        attach d0 p0
        write p0 page=0 offset=0 length=16 value=0x5
        register d0 key=1 rw page=0 pages=2
        write p0 page=0 offset=0 length=8 value=0x7
        dread d0 page=0 offset=0 length=16 key=1
        write p0 page=1 offset=0 length=8 value=0x9
        dread d0 page=1 offset=0 length=8 key=1
        fork p0 child=p1
        write p0 page=0 offset=0 length=8 value=0xa
        dread d0 page=0 offset=0 length=8 key=1 job=1
        submit d0 job=1
        wait d0 job=1
        unregister d0 key=1
        dread d0 page=0 offset=0 length=8 key=1
        unregister d0 key=1""")
    assert outcomes[5] == read(7, 6)
    assert outcomes[7] == read(0)  # the zero page that was there when it was registered
    assert decode_wait(outcomes[12].data, 1) == [read(7)]
    assert outcomes[13:] == [Outcome(OK), Outcome(FAULT, 14), Outcome(ERROR, 22)]


@pytest.mark.parametrize("control", ["vmsplice"], indirect=True)
def test_a_pipe_takes_what_is_mapped(control: Agent) -> None:
    outcomes = control.run("""map p0 r page=0 pages=2
        attach d0 p0
        register d0 key=1 r page=0 pages=2
        register d0 key=1 r page=0 pages=2
        register d0 key=2 rw page=0 pages=2
        register d0 key=3 r page=1 pages=2
        dread d0 page=1 offset=4088 length=8 key=1
        dread d0 page=1 offset=4088 length=16 key=1
        detach d0
        attach d0 p0
        dread d0 page=0 offset=0 length=8 key=1""")
    assert outcomes[2:6] == [
        Outcome(OK), Outcome(ERROR, 17), Outcome(ERROR, 14), Outcome(ERROR, 14)
    ]  # fmt: skip
    assert outcomes[6:8] == [read(0), Outcome(FAULT, 14)]
    assert outcomes[-1] == Outcome(FAULT, 14)


@pytest.mark.parametrize("control", ["proc_mem"], indirect=True)
def test_a_debugger_may_what_a_device_may_not(control: Agent) -> None:
    outcomes = control.run("""map p0 r page=0 pages=1
        map p0 none page=1 pages=1
        attach d0 p0
        dwrite d0 page=0 offset=0 length=8 value=0x5
        dwrite d0 page=1 offset=0 length=8 value=0x6
        dread d0 page=0 offset=0 length=8
        dread d0 page=1 offset=0 length=8
        dread d0 page=2 offset=0 length=8
        read p0 page=0 offset=0 length=8""")
    assert outcomes[3:] == [
        Outcome(OK, 0, 8), Outcome(OK, 0, 8), read(5), read(6), Outcome(FAULT, 14), read(5)
    ]  # fmt: skip
