"""Drivers in C that are not what they should be, or do what they may not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from c_drivers import (
    COMPILER,
    EXAMPLES,
    READ,
    compile_driver,
    snippet_driver,
    unjudged,
    write_driver,
)

from adapters.candidate import CandidateError
from adapters.driver_c import gate, load_c_driver

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of our own instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


# ---- Before anything runs: one line that names what and where ----


def complaint_of(path: Path) -> str:
    with pytest.raises(CandidateError) as caught:
        load_c_driver(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def edited(folder: Path, old: str, new: str) -> Path:
    """The source of a driver in which something stands differently."""
    path = write_driver(folder)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    assert complaint_of(tmp_path / "nowhere.c") == "no such file"
    assert complaint_of(tmp_path / "nowhere.so") == "no such file"
    folder = tmp_path / "folder.c"
    folder.mkdir()
    assert complaint_of(folder) == "not a file"


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "driver.py"
    path.write_text("")
    assert complaint_of(path) == "a driver in C is a .c or an .so file"


def test_a_source_that_does_not_compile(tmp_path: Path) -> None:
    path = edited(tmp_path, "return -EFAULT;", "return EFALUT;")
    assert "snippet.c:" in complaint_of(path)
    assert "EFALUT" in complaint_of(path)


def test_a_header_that_is_missing(tmp_path: Path) -> None:
    path = edited(tmp_path, "lastwriter_driver.h", "linux/hmm.h")
    assert "linux/hmm.h" in complaint_of(path)


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "")
    assert complaint_of(EXAMPLES / "template.c") == "no C compiler on the PATH"


def test_a_library_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "driver.so"
    path.write_text("int main;")
    assert "not a loadable shared library" in complaint_of(path)


def test_a_library_that_lacks_a_function_it_calls(tmp_path: Path) -> None:
    path = write_driver(tmp_path, functions="void elsewhere(void);", open="elsewhere();")
    assert "undefined symbol: elsewhere" in complaint_of(compile_driver(tmp_path, path))


KERNEL = "const struct lw_kernel *lw_kernel;"
NULL = (
    KERNEL + "const struct lw_driver *lw_driver_get(const struct lw_kernel *kernel)"
    "{ lw_kernel = kernel; return &driver == NULL ? &driver : NULL; }"
)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("lw_module(driver)", KERNEL, "does not export lw_driver_get, as lw_module() makes it do"),
        ("lw_module(driver)", NULL, "lw_driver_get returns NULL"),
        (
            "LW_DRIVER_HEADER,",
            ".abi_version = 9, .size = sizeof(driver),",
            "has driver ABI version 9, this lastwriter has driver ABI version 1",
        ),
        (
            "LW_DRIVER_HEADER,",
            ".abi_version = LW_DRIVER_ABI_VERSION, .size = 64,",
            "its struct lw_driver has 64 bytes, this lastwriter's has 120",
        ),
        ('.name = "snippet",', "", "its name is not 1 to 60 printable characters"),
        ('"snippet"', '"two\\nlines"', "its name is not 1 to 60 printable characters"),
        ('"snippet"', '"\\xff"', "its name is not 1 to 60 printable characters"),
        ("LW_FAULTING", "3", "3 is no sync model"),
        ("= LW_PAGE_FAULTS", "= 0x84", "0x84 has flags that there are not"),
        (".open = open_device,", "", "has no callback open, which every driver needs"),
        (".close = close_device,", "", "has no callback close, which every driver needs"),
        (".fault = fault,", "", "has no callback fault, which LW_PAGE_FAULTS needs"),
        (
            "= LW_PAGE_FAULTS",
            "= LW_PAGE_FAULTS | LW_KEYED",
            "has no callback register_range, which LW_KEYED needs",
        ),
    ],
)
def test_a_driver_that_is_not_complete(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = edited(tmp_path, "static const struct lw_driver driver", "struct lw_driver driver")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert complaint_of(path) == complaint


@pytest.mark.parametrize(
    ("callbacks", "flags", "complaint"),
    [
        ("register_range", "LW_KEYED", "no callback unregister_range, which register_range"),
        ("unregister_range", "0", "no callback register_range, which unregister_range"),
        ("register_range unregister_range", "0", "no LW_KEYED, which register_range"),
        ("migrate_to_device", "0", "no callback migrate_to_system, which migrate_to_device"),
        ("migrate_to_system", "0", "no callback migrate_to_device, which migrate_to_system"),
        (
            "migrate_to_device migrate_to_system",
            "0",
            "no callback migrate_to_ram, which migrate_to_device",
        ),
    ],
)
def test_a_driver_that_does_half(
    tmp_path: Path, callbacks: str, flags: str, complaint: str
) -> None:
    fields = "".join(f".{name} = (void *)fault, " for name in callbacks.split())
    path = edited(tmp_path, "/* CALLBACKS */", fields)
    path.write_text(path.read_text().replace("= LW_PAGE_FAULTS", f"= {flags}"))
    assert complaint_of(path) == f"has {complaint} needs"


# ---- While it runs: the rule that it broke ----

COLLECT = """
    struct hmm_range range = {
        .notifier = &state->notifier, .start = address, .end = address + PAGE_SIZE,
        .hmm_pfns = &word, .default_flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
    };
    range.notifier_seq = mmu_interval_read_begin(&state->notifier);
"""
MIGRATE = """
    unsigned long src = 0, dst = 0;
    struct migrate_vma args = {
        .mm = state->mm, .src = &src, .dst = &dst, .start = address, .end = address + PAGE_SIZE,
        .pgmap_owner = device->owner, .flags = MIGRATE_VMA_SELECT_SYSTEM,
    };
    mmap_read_lock(state->mm);
    migrate_vma_setup(&args);
"""
FAULTS = {
    "lock on the stack": ("W6", "struct mutex here; mutex_init(&here);"),
    "lock that was not initialised": ("W6", "struct mutex here = {0}; mutex_lock(&here);"),
    "lock that is NULL": ("W6", "mutex_lock(NULL);"),
    "lock of another kind": ("W6", "mutex_lock((struct mutex *)&state->spin);"),
    "lock taken twice": ("W3", "mutex_lock(&state->lock); mutex_lock(&state->lock);"),
    "lock that is not held": ("W3", "mutex_unlock(&state->lock);"),
    "lock that is kept": ("W3", "mutex_lock(&state->lock);"),
    "locks in both orders": (
        "W3",
        "mutex_lock(&state->lock); mutex_lock(&state->other); mutex_unlock(&state->other);"
        "mutex_unlock(&state->lock); mutex_lock(&state->other); mutex_lock(&state->lock);",
    ),
    "lock that is not held, as asserted": ("W3", "lockdep_assert_held(&state->lock);"),
    "sleep under a spin lock": ("W4", "spin_lock(&state->spin); mutex_lock(&state->lock);"),
    "allocation under a spin lock": ("W4", "spin_lock(&state->spin); kmalloc(1, GFP_KERNEL);"),
    "wait under a spin lock": ("W4", "spin_lock(&state->spin); wait_event(state->queue, true);"),
    "wait that nobody ends": ("W1", "wait_event(state->queue, false);"),
    "memory that is kept": ("W5", "kmalloc(24, GFP_KERNEL);"),
    "memory freed twice": ("W6", "void *m = kmalloc(24, GFP_KERNEL); kfree(m); kfree(m);"),
    "memory that is none": ("W6", "kfree(&word);"),
    "memory used after it was freed": (
        "W6",
        "unsigned long *m = kmalloc(24, GFP_KERNEL); kfree(m); m[2] = 1;",
    ),
    "memory behind the end": (
        "W6",
        "char *m = kmalloc(24, GFP_KERNEL); m[24] = 0; kfree(m);",
    ),
    "memory before the start": (
        "W6",
        "char *m = kmalloc(24, GFP_KERNEL); m[-1] = 0; state->words = (void *)m;",
    ),
    "lock in freed memory": (
        "W6",
        "struct mutex *m = kmalloc(sizeof(*m), GFP_KERNEL);mutex_init(m); kfree(m); mutex_lock(m);",
    ),
    "address space that is none": ("W6", "mmget_not_zero((struct mm_struct *)77);"),
    "reference of another": ("W6", "mmput(state->mm); mmput(state->mm);"),
    "reference that is kept": ("W5", "mmget_not_zero(state->mm);"),
    "mmap_lock not taken": ("H1", COLLECT + "hmm_range_fault(&range);"),
    "array that is NULL": (
        "W6",
        COLLECT + "range.hmm_pfns = NULL; mmap_read_lock(state->mm); hmm_range_fault(&range);",
    ),
    "owner that is none": (
        "W6",
        COLLECT + "range.dev_private_owner = &word; mmap_read_lock(state->mm);"
        "hmm_range_fault(&range);",
    ),
    "notifier that is none": (
        "W6",
        "struct mmu_interval_notifier other = {0}; mmu_interval_read_begin(&other);",
    ),
    "notifier on the stack": (
        "W6",
        "struct mmu_interval_notifier other = {0};"
        "mmu_interval_notifier_insert(&other, state->mm, 0, 4096, &ops);",
    ),
    "page that is none": ("W6", "dma_map_page(device, pfn_to_page(0x7777777));"),
    "page that is not held": ("W6", "put_page(alloc_page());"),
    "page that is not pinned": ("P1", "unpin_user_page(alloc_page());"),
    "DMA address that is none": ("W6", "dma_unmap_page(device, 5);"),
    "DMA address that is kept": ("W5", "dma_map_page(device, alloc_page());"),
    "device that is none": ("W6", "device_flush((struct lw_device *)&word, 0, 1);"),
    "translation outside": ("W6", "device_map(device, 0, device->va_end, 1, true);"),
    "migration not set up": ("W6", "struct migrate_vma args = {0}; migrate_vma_pages(&args);"),
    "migration finished twice": (
        "W6",
        MIGRATE + "migrate_vma_pages(&args); migrate_vma_finalize(&args);"
        "migrate_vma_finalize(&args);",
    ),
    "src written to": ("W6", MIGRATE + "src ^= 64; migrate_vma_pages(&args);"),
    "migration of another range": ("W6", MIGRATE + "args.end += 4096; migrate_vma_pages(&args);"),
    "destination that is none": ("W6", MIGRATE + "dst = 12345 << 6 | 1; migrate_vma_pages(&args);"),
    "migration that is not finished": ("W3", MIGRATE + "mmap_read_unlock(state->mm);"),
    "subscription removed twice": ("I14", "mmu_interval_notifier_remove(&state->notifier);"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_handler_that_breaks_a_rule(tmp_path: Path, fault: str) -> None:
    rule, snippet = FAULTS[fault]
    run = unjudged(snippet_driver(tmp_path, fault=snippet), READ)
    assert run.broken is not None
    assert (run.broken.rule, run.operation) == (rule, 3), run.broken
    assert "\n" not in str(run.broken)
    # What comes afterwards is as ever.
    assert unjudged(snippet_driver(tmp_path), READ).broken is None


INVALIDATED = "map p0 rw page=0 pages=1\nattach d0 p0\nread p0 page=0 offset=0 length=8\n"
CALLBACKS = {
    "refusal of what may block": ("B6", "return false;", ""),
    "sleep where that may not be": ("B6", "mutex_lock(&state->lock);", " nonblock"),
    "allocation in a callback": ("S8", "kfree(kmalloc(1, GFP_KERNEL));", ""),
    "removal from a callback": ("I14", "mmu_interval_notifier_remove(notifier);", ""),
}


@pytest.mark.parametrize("fault", CALLBACKS)
def test_a_notifier_callback_that_breaks_a_rule(tmp_path: Path, fault: str) -> None:
    rule, snippet, flag = CALLBACKS[fault]
    lines = f"{INVALIDATED}invalidate p0 page=0 pages=1 event=clear{flag}"
    run = unjudged(snippet_driver(tmp_path, invalidate=snippet), lines)
    assert run.broken is not None
    assert (run.broken.rule, run.operation) == (rule, 3), run.broken


def test_a_notifier_used_before_it_is_there(tmp_path: Path) -> None:
    snippet = "mmu_interval_read_begin(&state->notifier);"
    run = unjudged(snippet_driver(tmp_path, open=snippet), READ)
    assert run.broken is not None
    assert (run.broken.rule, run.operation) == ("W6", 2)


def test_a_page_that_comes_home_neither_way(tmp_path: Path) -> None:
    text = (EXAMPLES / "faulting.c").read_text()
    path = tmp_path / "vague.c"
    path.write_text(text.replace("return moved < 0 ? VM_FAULT_SIGBUS : 0;", "return 7 + moved;"))
    lines = "map p0 rw page=0 pages=1\nattach d0 p0\nto_device d0 page=0 pages=1\n"
    run = unjudged(load_c_driver(path), f"{lines}read p0 page=0 offset=0 length=8")
    assert run.broken is not None
    assert run.broken.rule == "R4"
    assert str(run.broken) == "migrate_to_ram answered 8, not 0 or VM_FAULT_SIGBUS"


def test_an_answer_that_is_no_errno(tmp_path: Path) -> None:
    lines = "map p0 rw page=0 pages=1\nattach d0 p0\nfault d0 r page=0 pages=1"
    run = unjudged(snippet_driver(tmp_path, fault="return 5;"), lines)
    assert run.broken is not None
    assert run.broken.rule == "R4"


# ---- Drivers that do not come back ----


def test_a_driver_that_does_not_return_is_left_behind(tmp_path: Path) -> None:
    for snippet in ("for (;;) mutex_lock(&state->lock);", "for (;;) mmget_not_zero(NULL);"):
        driver = snippet_driver(tmp_path, fault=snippet)
        run = unjudged(driver, READ)
        assert run.broken is not None
        assert run.broken.rule in {"W3", "W6"}
        # The same class still works, where it is not asked to do that.
        assert unjudged(driver, "attach d0 p0").broken is None


def test_a_loop_without_end_is_no_progress(tmp_path: Path) -> None:
    loops = ("cond_resched()", "mmu_interval_set_seq(&state->notifier, 1)")
    for loop in loops:
        run = unjudged(snippet_driver(tmp_path, fault=f"for (;;) {loop};"), READ)
        assert run.broken is not None
        assert run.broken.rule == "W2"


CHILD = """
import sys
from pathlib import Path
from c_drivers import READ, unjudged
from adapters.driver_c import gate, load_c_driver
for _ in range(int(sys.argv[2])):
    print(unjudged(load_c_driver(Path(sys.argv[1])), READ).broken, flush=True)
"""


def in_child(path: Path, runs: int) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(runs)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_crash_is_the_end_of_the_process(tmp_path: Path) -> None:
    result = in_child(write_driver(tmp_path, fault="*(volatile int *)8 = 1;"), 1)
    assert (result.returncode, result.stdout) == (-signal.SIGSEGV, "")


def test_what_is_left_behind_does_not_keep_the_process_from_its_end(tmp_path: Path) -> None:
    path = write_driver(tmp_path, fault="for (;;) mutex_unlock(&state->lock);")
    result = in_child(path, 3)
    assert result.stdout.count("is given back by a task that does not hold it") == 3
    assert (result.returncode, result.stderr) == (0, "")


def test_too_much_left_behind_is_the_end_of_the_process(tmp_path: Path) -> None:
    path = write_driver(tmp_path, fault="for (;;) mutex_unlock(&state->lock);")
    result = in_child(path, gate.MOST_LEFT + 2)
    assert result.returncode == os.EX_SOFTWARE
    assert result.stdout.count("\n") == gate.MOST_LEFT
    assert result.stderr == "a driver in C does not return after the end of its run\n"


def test_one_run_cannot_begin_inside_another(tmp_path: Path) -> None:
    driver = snippet_driver(tmp_path)

    class Nosy(driver):  # type: ignore[valid-type,misc]
        def fault(self, address: int, write: bool) -> int:
            self.library.gate.visits += 1
            unjudged(driver, READ)
            return 0

    run = unjudged(Nosy, READ)
    assert run.broken is not None
    assert "one run begins inside another" in str(run.broken)
