"""What counts as a complaint in a kernel's log, and reading the log while it grows."""

from __future__ import annotations

import os

import pytest

from adapters.vm.kernel_log import KernelLog, find_complaint

LOCKDEP = """\
======================================================
WARNING: possible circular locking dependency detected
6.12.117 #1 Not tainted
------------------------------------------------------
init/1 is trying to acquire lock:
"""
COMPLAINTS = [
    "WARNING: CPU: 1 PID: 77 at mm/memory.c:2001 zap_pte_range+0x1/0x2",
    "WARNING: possible recursive locking detected",
    "WARNING: suspicious RCU usage",
    "BUG: sleeping function called from invalid context at mm/slab.h:1",
    "BUG: KASAN: slab-use-after-free in dmirror_interval_invalidate+0x1/0x2",
    "BUG: unable to handle page fault for address: ffffc90000000000",
    "BUG: Bad page state in process init  pfn:01234",
    "kernel BUG at mm/rmap.c:1234!",
    "Oops: invalid opcode: 0000 [#1] SMP",
    "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
    "INFO: task init:1 blocked for more than 20 seconds.",
    "Kernel panic - not syncing: Attempted to kill init!",
]
HARMLESS = [
    "Linux version 6.12.117",
    "test_hmm: BUG: is what it would say",
    "rcu: INFO: rcu_sched self-detected stall on CPU",
    "watchdog: BUG: soft lockup - CPU#0 stuck for 23s! [init:1]",
    "init[33]: segfault at 0 ip 0000000000401000 sp 00007ffc error 4 in init",
    "traps: init[33] general protection fault ip:401000 sp:7ffc error:0 in init",
    "Out of memory: Killed process 33 (init)",
    "page allocation failure: order:9",
]


@pytest.mark.parametrize("line", COMPLAINTS)
@pytest.mark.parametrize("stamp", ["", "[    0.000001] ", "[ 1234.567890][   T42] "])
def test_complaints(line: str, stamp: str) -> None:
    assert find_complaint(f"booting\n{stamp}{line}\n") == line


@pytest.mark.parametrize("line", HARMLESS)
def test_what_is_none(line: str) -> None:
    assert find_complaint(f"[    0.000001] {line}\n") is None


def test_a_report_ends_where_the_kernel_says_so() -> None:
    text = "WARNING: CPU: 0\nRIP: 1\n---[ end trace 0 ]---\nmore\n"
    assert find_complaint(text) == "WARNING: CPU: 0\nRIP: 1"


def test_a_report_has_no_registers() -> None:
    kept = ["WARNING: CPU: 0", "CPU: 0 UID: 0 PID: 34 Comm: x", "RIP: 0010:f+0x1b7/0x23d [m]"]
    trace = ["Call Trace:", " <TASK>", " ? ioctl+0x1/0x2"]
    noise = [
        "Code: ff 00",
        "RSP: 0018:ff EFLAGS: 0",
        "RAX: 8",
        "R10: 0",
        "FS:  0",
        "CS:  0",
        "CR2: 0",
    ]
    noise += ["Modules linked in: m", "PGD 0 P4D 0"]
    assert find_complaint("\n".join([*kept, *noise, *trace])) == "\n".join([*kept, *trace])


def test_what_a_warning_says_stands_above_it() -> None:
    text = "before\n------------[ cut here ]------------\nnot today\nWARNING: CPU: 0\nRIP: 1\n"
    assert find_complaint(text) == "WARNING: CPU: 0\nnot today\nRIP: 1"
    log = KernelLog()
    os.write(log.file, b"x\n" * 10_000 + text.encode())
    assert log.look() == "WARNING: CPU: 0\nnot today\nRIP: 1"
    log.close()


def test_the_first_complaint_counts() -> None:
    found = find_complaint(LOCKDEP + "BUG: KASAN: double-free in f\n")
    assert found is not None
    assert found.startswith("WARNING: possible circular locking dependency detected\n")


def test_a_report_is_bounded() -> None:
    found = find_complaint("BUG: x\n" + ("y" * 1000 + "\n") * 1000)
    assert found is not None
    assert len(found) < 25_000


def held(log: KernelLog) -> int:
    """Bytes of memory."""
    return os.fstat(log.file).st_blocks * 512


class TestReading:
    def test_a_line_in_two_pieces(self) -> None:
        log = KernelLog()
        os.write(log.file, b"WARN")
        assert log.look() is None
        os.write(log.file, b"ING: CPU: 0\r\nRIP")
        assert log.look() == "WARNING: CPU: 0\nRIP"
        os.write(log.file, b": 1\n")
        assert log.look() == "WARNING: CPU: 0\nRIP: 1"
        log.close()

    def test_a_complaint_belongs_to_the_program_that_it_comes_in(self) -> None:
        log = KernelLog()
        os.write(log.file, b"[    1.000001] lastwriter: program 1\nlastwriter: program 2\nBU")
        assert log.look() is None
        os.write(log.file, b"G: late\nlastwriter: program 3\nBUG: again\n")
        assert log.look() == "BUG: late"
        assert log.owner == 2
        log.close()

    def test_a_complaint_before_all_programs(self) -> None:
        log = KernelLog()
        os.write(log.file, b"BUG: early\nlastwriter: program 1\n")
        assert (log.look(), log.owner) == ("BUG: early", 0)
        log.close()

    def test_a_mark_that_is_long_gone(self) -> None:
        log = KernelLog()
        os.write(log.file, b"lastwriter: program 7\n")
        log.look()
        os.write(log.file, b"all is well\n" * 10_000)
        log.look()
        os.write(log.file, b"BUG: at last\nlastwriter: program 8\nmore\n")
        assert (log.look(), log.owner) == ("BUG: at last", 7)
        assert "all is well\nBUG: at last" in log.tail_of(7)
        assert log.tail_of(8) == "more"
        log.close()

    def test_a_mark_in_two_pieces(self) -> None:
        log = KernelLog()
        os.write(log.file, b"lastwriter: program 1")
        log.look()
        os.write(log.file, b"2\nBUG: x\n")
        assert (log.look(), log.owner) == ("BUG: x", 12)
        log.close()

    def test_programs_have_a_log_each(self) -> None:
        log = KernelLog()
        os.write(log.file, b"boot\nlastwriter: program 1\none\nlastwriter: program 2\ntwo\x1b[2J\n")
        assert log.tail_of(1) == "one"
        assert log.tail_of(2) == "two\ufffd[2J"
        assert log.tail_of(3) == "two\ufffd[2J", "it has not begun"
        assert log.tail().startswith("boot\n")
        log.close()

    def test_a_long_log_takes_no_memory(self) -> None:
        log = KernelLog()
        for _ in range(40):
            os.write(log.file, b"all is well\n" * 10_000)
            assert log.look() is None
        assert held(log) <= 2 << 20
        os.write(log.file, b"BUG: at last\n")
        for _ in range(40):
            os.write(log.file, b"all is well\n" * 10_000)
            assert str(log.look()).startswith("BUG: at last\n")
        assert held(log) <= 2 << 20
        assert len(log.tail()) <= 16 << 10
        log.close()
