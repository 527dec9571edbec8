"""`mmu_notifier_get` and `mmu_notifier_put` for drivers in C."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from c_drivers import COMPILER, compile_driver
from driving import complaint, programs, schedule, script

from adapters.driver_c import CDriver, load_c_driver
from reference.host.record import What
from reference.host.run import run_program
from reference.model import judge
from reference.schedule import Injection, Schedule
from reference.trace import Trace

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")

SOURCE = r"""
#include "lastwriter_driver.h"

struct process {
    struct mmu_notifier notifier;
};

static struct mmu_notifier *alloc_notifier(struct mm_struct *mm)
{
    struct process *process = kzalloc(sizeof(*process), GFP_KERNEL);
    (void)mm;
    return process ? &process->notifier : ERR_PTR(-ENOMEM);
}

static void free_notifier(struct mmu_notifier *notifier)
{
    /* FREE */
    kfree(container_of(notifier, struct process, notifier));
}

static const struct mmu_notifier_ops ops = {
    .alloc_notifier = alloc_notifier,
    .free_notifier = free_notifier,
};

static int open_device(struct lw_device *device, struct mm_struct *mm)
{
    struct mmu_notifier *notifier = mmu_notifier_get(&ops, mm);
    if (IS_ERR(notifier))
        return PTR_ERR(notifier);
    device->priv = notifier;
    return 0;
}

static void close_device(struct lw_device *device)
{
    /* PUT */
    mmu_notifier_put(device->priv);
    mmu_notifier_synchronize();
}

static int fault(struct lw_device *device, unsigned long address, bool write)
{
    (void)device;
    (void)address;
    (void)write;
    return -EFAULT;
}

static const struct lw_driver driver = {
    LW_DRIVER_HEADER,
    .name = "getting",
    .model = LW_FAULTING,
    .open = open_device,
    .close = close_device,
    .fault = fault,
};

lw_module(driver)
"""
"""One that maps nothing, for two devices and their process."""
TWO = "attach d0 p0\nattach d1 p0\ndiscard p0 page=0 pages=1\ndetach d0\ndetach d1"


def load(folder: Path, *changes: tuple[str, str]) -> type[CDriver]:
    text = SOURCE
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = folder / "getting.c"
    path.write_text(text)
    return load_c_driver(compile_driver(folder, path, "-Wno-unused-function"))


def test_devices_of_a_process_share_one(tmp_path: Path) -> None:
    driver = load(tmp_path)
    run = run_program(script(driver, TWO), driver)
    assert run.broken is None
    whats = [entry.what for entry in run.record]
    assert whats.count(What.INSERT) == 1
    assert [entry.arguments for entry in run.record if entry.what == What.DROPPED] == [
        (1, 0, 1),
        (1, 1, 0),
    ]
    assert whats.count(What.FREED) == 1


@pytest.mark.parametrize("site", ["allocation", "insert"])
def test_an_error_is_a_pointer(site: str, tmp_path: Path) -> None:
    driver = load(tmp_path)
    plan = Schedule(injections=(Injection(site, 1),))
    run = run_program(replace(script(driver, TWO), schedule=plan), driver)
    assert run.broken is None
    assert [each.error for each in run.outcomes[:2]] == [12, 0]


def test_it_is_accused_of_nothing(tmp_path: Path) -> None:
    driver, freed = load(tmp_path), 0
    for seed, program in enumerate(programs(driver, 60, 5, pages=2, most=12)):
        scheduled = replace(program, schedule=schedule(("follow", "random")[seed % 2], seed))
        run = run_program(scheduled, driver)
        wrong = complaint(scheduled, run)
        assert run.broken is None, wrong
        freed += any(entry.what == What.FREED for entry in run.record)
    assert freed > 20


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (("/* PUT */", "return;"), "L5"),
        (("/* PUT */", "mmu_notifier_unregister(device->priv); return;"), "L5"),
        (("/* PUT */", "mmu_notifier_put(device->priv);"), "L5"),
        (("/* FREE */", "might_sleep();"), "L6"),
        (("    .alloc_notifier = alloc_notifier,\n", ""), "W6"),
        (("    .free_notifier = free_notifier,\n", ""), "L5"),
        (("/* FREE */", "kfree(container_of(notifier, struct process, notifier));"), "W6"),
    ],
)
def test_a_rule_is_named(change: tuple[str, str], rule: str, tmp_path: Path) -> None:
    driver = load(tmp_path, change)
    program = script(driver, "attach d0 p0\ndetach d0")
    run = run_program(program, driver)
    violation = judge(Trace(program, tuple(run.outcomes), hosted=run.plain())).violation
    assert violation is not None
    assert violation.rule == rule
