"""Drivers in C for tests: where the worked ones are, and wrong ones made from snippets."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from driving import script

from adapters.driver_c import INCLUDE, CDriver, load_c_driver
from reference.drivers import Driver
from reference.host.run import Run, run_program
from reference.schedule import PLAIN, Schedule

COMPILER = shutil.which("gcc") or shutil.which("cc")
EXAMPLES = Path(__file__).parents[1] / "adapters" / "examples" / "drivers"
STRICT = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{INCLUDE}")

FRAME = r"""
#include "lastwriter_driver.h"

struct state {
    struct lw_device *device;
    struct mm_struct *mm;
    struct mutex lock;
    struct mutex other;
    spinlock_t spin;
    wait_queue_head_t queue;
    struct mmu_interval_notifier notifier;
    unsigned long *words;
};

static struct state *state_of(struct lw_device *device)
{
    return device->priv;
}

static bool invalidate(struct mmu_interval_notifier *notifier,
                       const struct mmu_notifier_range *range, unsigned long seq)
{
    struct state *state = container_of(notifier, struct state, notifier);
    (void)range;
    (void)state;
    mmu_interval_set_seq(notifier, seq);
    /* INVALIDATE */
    return true;
}

static const struct mmu_interval_notifier_ops ops = { .invalidate = invalidate };

/* FUNCTIONS */

static int open_device(struct lw_device *device, struct mm_struct *mm)
{
    struct state *state = kzalloc(sizeof(*state), GFP_KERNEL);
    if (!state)
        return -ENOMEM;
    device->priv = state;
    state->device = device;
    state->mm = mm;
    mutex_init(&state->lock);
    mutex_init(&state->other);
    spin_lock_init(&state->spin);
    init_waitqueue_head(&state->queue);
    /* OPEN */
    return mmu_interval_notifier_insert(&state->notifier, mm, 0, 1ul << 47, &ops);
}

static void close_device(struct lw_device *device)
{
    struct state *state = state_of(device);
    mmu_interval_notifier_remove(&state->notifier);
    /* CLOSE */
    kfree(state);
}

static int fault(struct lw_device *device, unsigned long address, bool write)
{
    struct state *state = state_of(device);
    unsigned long word = 0;
    (void)state;
    (void)address;
    (void)write;
    (void)word;
    /* FAULT */
    return -EFAULT;
}

static const struct lw_driver driver = {
    LW_DRIVER_HEADER,
    .name = "snippet",
    .model = LW_FAULTING,
    .flags = LW_PAGE_FAULTS,
    .open = open_device,
    .close = close_device,
    .fault = fault,
    /* CALLBACKS */
};

lw_module(driver)
"""
"""A driver that maps nothing, with places for snippets."""

READ = """map p0 rw page=0 pages=1
write p0 page=0 offset=0 length=8 value=1
attach d0 p0
dread d0 page=0 offset=0 length=8"""
"""A script in which the driver is opened, asked for a page, and closed."""


def unjudged(driver: type[Driver], lines: str, schedule: Schedule = PLAIN) -> Run:
    """The run of a script with a driver that need not be right."""
    return run_program(replace(script(driver, lines), schedule=schedule), driver)


def write_driver(folder: Path, **snippets: str) -> Path:
    """The source of a driver with snippets in their places."""
    text = FRAME
    for place, snippet in snippets.items():
        assert f"/* {place.upper()} */" in text
        text = text.replace(f"/* {place.upper()} */", snippet)
    path = folder / "snippet.c"
    path.write_text(text)
    return path


def snippet_driver(folder: Path, **snippets: str) -> type[CDriver]:
    return load_c_driver(write_driver(folder, **snippets))


def compile_driver(folder: Path, source: Path, *options: str) -> Path:
    library = folder / f"{source.stem}.so"
    command = [str(COMPILER), *STRICT, *options, str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return library
