"""The range that a callback is told is the kernel's, and no driver may write to it (E3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from c_drivers import COMPILER, EXAMPLES, compile_driver, snippet_driver, unjudged
from driving import script

from adapters.driver_c import CDriver, load_c_driver
from reference.drivers.faulting import FaultingDriver
from reference.host.run import run_program
from reference.model import judge
from reference.trace import Judgement, Trace

LINES = """
    map p0 rw page=0 pages=1
    attach d0 p0
    dread d0 page=0 offset=0 length=8
    discard p0 page=0 pages=1
"""
LISTED = """
static {kind} {name}(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{{
    (void)notifier;
    ((struct mmu_notifier_range *)range)->end -= 4096;
    {answer}
}}
static const struct mmu_notifier_ops listed_ops = {{ .{name} = {name} }};
static struct mmu_notifier listed = {{ .ops = &listed_ops }};
"""


def judged(driver: type[CDriver] | type[FaultingDriver]) -> Judgement:
    program = script(driver, LINES)
    run = run_program(program, driver)
    return judge(Trace(program, tuple(run.outcomes), hosted=run.plain()))


@pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("", ""),
        ("->flags &= ~MMU_NOTIFIER_RANGE_BLOCKABLE;", "flags"),
        ("->flags |= 2;", "flags"),
        ("->start += 4096;", "start"),
        ("->owner = mirror;", "owner"),
        ("->event = MMU_NOTIFY_CLEAR;", ""),  # as it was
    ],
)
def test_an_interval_callback_leaves_it_alone(change: str, field: str, tmp_path: Path) -> None:
    seq = "    mmu_interval_set_seq(notifier, cur_seq);\n"
    source = (EXAMPLES / "faulting.c").read_text()
    assert source.count(seq) == 1
    written = f"((struct mmu_notifier_range *)range){change}" if change else ""
    path = tmp_path / "writing.c"
    path.write_text(source.replace(seq, f"{seq}    {written}\n"))
    violation = judged(load_c_driver(compile_driver(tmp_path, path))).violation
    if not field:
        assert violation is None
        return
    assert violation is not None
    assert violation.rule == "E3"
    assert f"`{field}`" in violation.message


@pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")
@pytest.mark.parametrize(
    ("kind", "name", "answer"),
    [("int", "invalidate_range_start", "return 0;"), ("void", "invalidate_range_end", "")],
)
def test_a_list_callback_leaves_it_alone(kind: str, name: str, answer: str, tmp_path: Path) -> None:
    driver = snippet_driver(
        tmp_path,
        functions=LISTED.format(kind=kind, name=name, answer=answer),
        open="if (mmu_notifier_register(&listed, mm)) return -EINVAL;",
        close="mmu_notifier_unregister(&listed);",
    )
    run = unjudged(driver, LINES)
    assert run.broken is not None
    assert run.broken.rule == "E3"


def test_it_is_counted_with_every_callback() -> None:
    found = judged(FaultingDriver)
    assert found.violation is None
    assert found.exercised["E3"] == 1, "that of the discard"
