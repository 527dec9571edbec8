"""Invalidation in two passes by drivers in C: the worked one, changed to finish later (I17)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from c_drivers import COMPILER, compile_driver, snippet_driver
from driving import complaint, programs, schedule, script

from adapters.driver_c import CDriver, load_c_driver
from reference.host.record import What
from reference.host.run import run_program
from reference.model import judge
from reference.schedule import PLAIN, Schedule
from reference.trace import Trace

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")

PASSES = r"""
struct rest {
    struct mmu_interval_notifier_finish finish;
};

static struct rest *rest_of(struct mmu_interval_notifier_finish *finish)
{
    return container_of(finish, struct rest, finish);
}

static bool start(struct mmu_interval_notifier *notifier, const struct mmu_notifier_range *range,
                  unsigned long seq, struct mmu_interval_notifier_finish **finish)
{
    struct state *state = container_of(notifier, struct state, notifier);
    struct rest *rest;
    if (mmu_notifier_range_blockable(range))
        mutex_lock(&state->lock);
    else if (!mutex_trylock(&state->lock))
        return false;
    mmu_interval_set_seq(notifier, seq);
    mutex_unlock(&state->lock);
    rest = kzalloc(sizeof(*rest), GFP_ATOMIC);
    if (rest)
        *finish = &rest->finish;
    /* START */
    return true;
}

static void finish(struct mmu_interval_notifier_finish *finish)
{
    struct state *state = container_of(finish->notifier, struct state, notifier);
    (void)state;
    /* SECOND */
    kfree(rest_of(finish));
}

static const struct mmu_interval_notifier_ops two = {
    .invalidate_start = start,
    .invalidate_finish = finish,
};
"""


def load(folder: Path, *changes: tuple[str, str]) -> type[CDriver]:
    text = PASSES
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = snippet_driver(folder, functions=text).library.path
    source = path.read_text().replace("1ul << 47, &ops)", "1ul << 47, &two)")
    path.write_text(source)
    return load_c_driver(compile_driver(folder, path, "-Wno-unused"))


LINES = """
    map p0 rw page=0 pages=1
    attach d0 p0
    attach d1 p0
    discard p0 page=0 pages=1
"""


def rule(driver: type[CDriver], lines: str, plan: Schedule = PLAIN) -> str:
    program = replace(script(driver, lines), schedule=plan)
    run = run_program(program, driver)
    violation = judge(Trace(program, tuple(run.outcomes), hosted=run.plain())).violation
    return "" if violation is None else violation.rule


def test_second_passes_come_after_all_first_ones(tmp_path: Path) -> None:
    driver = load(tmp_path)
    run = run_program(script(driver, LINES), driver)
    assert run.broken is None
    wanted = {What.CALLBACK, What.FINISHING, What.FINISHED}
    passes = [
        (What(entry.what).name, entry.arguments[0])
        for entry in run.record
        if entry.operation == 3 and entry.what in wanted
    ]
    assert passes == [
        *(("CALLBACK", 1), ("CALLBACK", 2)),
        *(("FINISHING", 1), ("FINISHED", 1), ("FINISHING", 2), ("FINISHED", 2)),
    ]


@pytest.mark.parametrize(
    ("changes", "rule_id"),
    [
        ([("/* START */", "return mmu_notifier_range_blockable(range);")], "I17"),
        ([("/* SECOND */", "mutex_lock(&state->lock); mutex_unlock(&state->lock);")], "B6"),
        ([("    .invalidate_finish = finish,\n", "")], "W6"),
    ],
)
def test_a_rule_is_named(changes: list[tuple[str, str]], rule_id: str, tmp_path: Path) -> None:
    lines = LINES.replace("discard p0", "invalidate p0 event=clear nonblock")
    assert rule(load(tmp_path, *changes), lines) == rule_id


def test_what_waits_is_not_handed_back_again(tmp_path: Path) -> None:
    static = ("    rest = kzalloc(sizeof(*rest), GFP_ATOMIC);", "    rest = &only;")
    there = "static struct rest *rest_of"
    struct = (there, f"static struct rest only;\n{there}")
    kept = ("    kfree(rest_of(finish));", "")
    lines = LINES + "reclaim p0 page=0 pages=1"
    assert rule(load(tmp_path, struct, static, kept), lines) == "I17", "two devices, one place"


def test_it_is_accused_of_nothing(tmp_path: Path) -> None:
    driver, finished = load(tmp_path), 0
    for seed, program in enumerate(programs(driver, 120, 5, pages=2, most=12)):
        scheduled = replace(program, schedule=schedule(("follow", "random")[seed % 2], seed))
        run = run_program(scheduled, driver)
        assert run.broken is None, complaint(scheduled, run)
        finished += any(entry.what == What.FINISHED for entry in run.record)
    assert finished > 10
