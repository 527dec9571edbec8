"""Single rules on records written by hand: what breaks them, and what does not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from reference.host.hardware import LOCAL
from reference.operations import Event, Kind
from reference.outcomes import Status
from reference.protocol import Profile, check, missing
from reference.protocol.coverage import CONDITIONS, REQUIRED, UNTESTED, count
from reference.protocol.mirror import LOCAL as CHECKED
from reference.record import Entry, What
from reference.rules import RULES
from reference.schedule import DEVICE, ENGINE
from reference.syncmodels import Sync

Step = tuple[object, ...]
"""Actor, kind of entry, arguments."""

CPU, DRIVER, SUBSCRIPTION, LOCK = 0, DEVICE, 1, 7

SETUP: list[Step] = [
    (DRIVER, What.LOCK, 0, LOCK, "mirror lock"),
    (DRIVER, What.ATTACH, 0, 0, 0),
    (DRIVER, What.INSERT, SUBSCRIPTION, 0, 0, 0, 8, 1),
]
LOOKUP: list[Step] = [
    (DRIVER, What.READ_BEGIN, SUBSCRIPTION, 1),
    (DRIVER, What.COLLECT, 0, 0, 3, 4, 1, "w"),
    (DRIVER, What.FOUND, 0, 3, 5, 1, 0),
    (DRIVER, What.COLLECTED, 0, 0),
]
CHECK: list[Step] = [
    (DRIVER, What.ACQUIRE, LOCK, 0),
    (DRIVER, What.READ_RETRY, SUBSCRIPTION, 1, 0),
]
COMMIT: list[Step] = [
    (DRIVER, What.DMA_MAP, 0, 1, 5),
    (DRIVER, What.DEVICE_MAP, 0, 0, 3, 1, 1),
    (DRIVER, What.UNLOCK, LOCK, 0),
]
MAPPED = [*SETUP, *LOOKUP, *CHECK, *COMMIT]
USED: list[Step] = [(ENGINE, What.WALK, 0, 0, 3), (ENGINE, What.FETCH, 0, 0, 3)]
ARRIVED: list[Step] = [(ENGINE, What.ACCESS, 0, 0, 3, 5, 0)]


def start(
    event: int = Event.CLEAR, *, owner: int = -1, blockable: int = 1, number: int = 9
) -> list[Step]:
    return [
        (CPU, What.START, number, 0, 2, 4, int(event), owner, blockable, "hp"),
        (CPU, What.CALLBACK, SUBSCRIPTION, number, 3),
    ]


ZAP: list[Step] = [
    (CPU, What.ACQUIRE, LOCK, 0),
    (CPU, What.SET_SEQUENCE, SUBSCRIPTION, 3),
    (CPU, What.DEVICE_UNMAP, 0, 0, 3),
    (CPU, What.FLUSH, 0, 3, 4),
    (CPU, What.DMA_UNMAP, 0, 1),
    (CPU, What.UNLOCK, LOCK, 0),
]
RETURN: list[Step] = [(CPU, What.RETURNED, SUBSCRIPTION, 9, 1), (CPU, What.STARTED, 9, 0)]
REFUSE: list[Step] = [(CPU, What.RETURNED, SUBSCRIPTION, 9, 0), (CPU, What.STARTED, 9, -11)]
FINISH: list[Step] = [(CPU, What.CHANGE, 0, 2, 4, 1, ""), (CPU, What.FINISH, 9)]


def without(steps: Iterable[Step], what: What) -> list[Step]:
    return [step for step in steps if step[1] != what]


def entries(steps: Iterable[Step]) -> list[Entry]:
    return [Entry(step[0], 4, int(step[1]), tuple(step[2:])) for step in steps]  # type: ignore[arg-type, call-overload]


def broken(
    steps: Iterable[Step], model: Sync = Sync.FAULTING, profile: Profile = Profile.TOLERANT
) -> str:
    """The rule that a record breaks; empty if it breaks none."""
    violation, _ = check(entries(steps), model, profile)
    return "" if violation is None else violation.rule


def test_a_textbook_fault_and_invalidation_break_nothing() -> None:
    assert not broken([*MAPPED, *USED, *ARRIVED, *start(), *ZAP, *RETURN, *FINISH])


def test_the_message_names_device_page_and_range() -> None:
    steps = [*MAPPED, *start(), *without(ZAP, What.DEVICE_UNMAP), *RETURN]
    violation, _ = check(entries(without(steps, What.DMA_UNMAP)), Sync.FAULTING)
    assert violation is not None
    assert violation.message == (
        "device 0 still has page table entries for page 3 "
        "when its callback for range 9 (CLEAR, pages 2..3) returned"
    )
    assert violation.operation == 4
    assert What(without(steps, What.DMA_UNMAP)[violation.entry][1]) == What.RETURNED  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("left_out", "rule"),
    [
        (What.DEVICE_UNMAP, "S5"),
        (What.DMA_UNMAP, "I12"),
        (What.SET_SEQUENCE, "I6"),
        (What.ACQUIRE, "I6"),
        (What.FLUSH, "S5"),
    ],
)
def test_each_step_of_a_callback_is_needed(left_out: What, rule: str) -> None:
    steps = [*MAPPED, *USED, *ARRIVED, *start(), *without(ZAP, left_out), *RETURN]
    assert broken(steps) == rule


def test_an_access_in_flight_is_waited_for() -> None:
    zap = without(ZAP, What.DMA_UNMAP)
    assert broken([*MAPPED, *USED, *start(), *zap, *RETURN]) == "I12"
    assert broken([*MAPPED, *USED, *start(), *ZAP, *RETURN]) == "S5"


@pytest.mark.parametrize(
    ("left_out", "rule"),
    [
        (What.READ_BEGIN, "I2"),
        (What.COLLECT, "H2"),
        (What.READ_RETRY, "H2"),
        (What.ACQUIRE, "I8"),
        (What.DMA_MAP, "W6"),
        (What.INSERT, "I14"),
    ],
)
def test_each_step_of_a_fault_is_needed(left_out: What, rule: str) -> None:
    assert broken(without(MAPPED, left_out)) == rule


def test_lookups_are_used_as_they_were_answered() -> None:
    read_only = [(DRIVER, What.FOUND, 0, 3, 5, 0, 0) if s[1] == What.FOUND else s for s in LOOKUP]
    assert broken([*SETUP, *read_only, *CHECK, *COMMIT]) == "H5"
    other = [(DRIVER, What.FOUND, 0, 3, 6, 1, 0) if s[1] == What.FOUND else s for s in LOOKUP]
    assert broken([*SETUP, *other, *CHECK, *COMMIT]) == "H5"
    failed = [*LOOKUP[:2], (DRIVER, What.COLLECTED, 0, -14)]
    assert broken([*SETUP, *failed, *CHECK, *COMMIT]) == "H9"
    assert broken([*SETUP, *LOOKUP, *failed[1:], *CHECK, *COMMIT]) == "H9"


def asking(requests: str, frame: int = 5) -> list[Step]:
    """A lookup with what it asks for the page and the frame that it finds."""
    found: Step = (DRIVER, What.FOUND, 0, 3, frame, int(requests == "w"), 0)
    return [LOOKUP[0], (DRIVER, What.COLLECT, 0, 0, 3, 4, 1, requests), found, LOOKUP[3]]


def test_to_ask_for_writing_is_to_ask_for_a_fault_too() -> None:
    assert not broken([*SETUP, *asking("w"), *CHECK, *COMMIT])
    assert broken([*SETUP, *asking("x")]) == "H4"


def test_a_snapshot_of_a_hole_leads_nowhere() -> None:
    read: list[Step] = [COMMIT[0], (DRIVER, What.DEVICE_MAP, 0, 0, 3, 1, 0), COMMIT[2]]
    assert not broken([*SETUP, *asking("-"), *CHECK, *read])
    assert broken([*SETUP, *asking("-", frame=-2), *CHECK, *read]) == "H6"
    assert broken([*SETUP, *asking("r", frame=-2), *CHECK, *read]) == "H5"
    _, exercised = check(entries([*SETUP, *asking("-"), *CHECK]), Sync.FAULTING)
    assert (exercised["H4"], exercised["H6"]) == (0, 1)


def test_a_check_without_lock_is_a_hint() -> None:
    hint: list[Step] = [(DRIVER, What.CHECK_RETRY, SUBSCRIPTION, 1, 0)]
    assert not broken([*SETUP, *LOOKUP, *hint, *CHECK, *COMMIT])
    assert broken([*SETUP, *LOOKUP, *hint, CHECK[0], *COMMIT]) == "I11"
    assert broken([*SETUP, *LOOKUP, CHECK[0], *COMMIT]) == "H2"


@pytest.mark.parametrize("kind", [Kind.ATTACH, Kind.REGISTER])
def test_an_insertion_that_failed_is_passed_on(kind: Kind) -> None:
    failed: list[Step] = [(DRIVER, What.REFUSED, 0, 0, -22)]
    inserted: list[Step] = [SETUP[-1]]
    ok, error = (
        [(DRIVER, What.END, int(kind), int(status))] for status in (Status.OK, Status.ERROR)
    )
    assert broken([*failed, *ok]) == "I1"
    assert not broken([*failed, *error])
    assert not broken([*failed, *inserted, *ok]), "another try"
    assert not broken([*failed, (DRIVER, What.END, int(Kind.DREAD), int(Status.OK))])
    _, exercised = check(entries([*failed, *error, *ok]), Sync.FAULTING)
    assert exercised["I1"] == 1


LISTED: list[Step] = [
    (DRIVER, What.ATTACH, 0, 0, 0),
    (DRIVER, What.INSERT, SUBSCRIPTION, 0, 0, 0, 8, 0),
    (DRIVER, What.PIN, 5, 0, 0, 3, 0),
    *COMMIT[:2],
    (DRIVER, What.UNPIN, 5, 0),
    (CPU, What.START, 9, 0, 2, 4, int(Event.CLEAR), -1, 1, "hp"),
    (CPU, What.CALLBACK, SUBSCRIPTION, 9, 0),
    *ZAP[2:5],
    *RETURN,
    *FINISH,
]


@pytest.mark.parametrize(
    ("touch", "rule"),
    [
        ((CPU, What.GET, 5), "S3"),
        ((CPU, What.COPY, 5, 6), "S3"),
        ((CPU, What.DMA_MAP, 0, 2, 5), "S3"),
        ((CPU, What.GET, 6), ""),
        ((DRIVER, What.GET, 5), ""),
    ],
)
def test_pages_of_a_range_are_gone_at_its_end(touch: Step, rule: str) -> None:
    ending, ended = ((CPU, what, SUBSCRIPTION, 9) for what in (What.ENDING, What.ENDED))
    assert broken([*LISTED, ending, touch, ended]) == rule
    assert broken([*LISTED, touch, ending, ended]) == ""
    kept: Step = (CPU, What.GET, 5)
    assert broken([*LISTED[:-7], kept, *LISTED[-7:], ending, touch, ended]) == ""
    _, exercised = check(entries([*LISTED, ending, ended]), Sync.FAULTING)
    assert exercised["S3"] == 1


def test_what_keeps_a_page_unmapped_is_counted() -> None:
    """A check that is true, a read section that waits, and a page that is let go unmapped."""
    quiet = [ZAP[0], ZAP[1], ZAP[-1]]
    begun = [*SETUP, *start(), *quiet, *RETURN]
    true: list[Step] = [*CHECK[:1], (DRIVER, What.READ_RETRY, SUBSCRIPTION, 1, 1)]
    waits: list[Step] = [(DRIVER, What.SLEEP, 0), (DRIVER, What.BLOCK, 0)]
    begins: Step = (DRIVER, What.READ_BEGIN, SUBSCRIPTION, 3)
    pinned: Step = (DRIVER, What.PIN, 5, 0, 0, 3, 0)
    unpinned: Step = (DRIVER, What.UNPIN, 5, 0)
    for steps, count_of in (
        ([*SETUP, *LOOKUP, *start(), *quiet, *RETURN, *true], 1),
        ([*SETUP, *LOOKUP, *start(), *quiet, *RETURN, *FINISH, *true], 0),
        ([*begun, *waits, *FINISH, begins], 1),
        ([*begun, *FINISH, *waits, begins], 0),
        ([*begun, *waits, *FINISH, waits[0], begins], 0),
        ([*LISTED[:2], pinned, *LISTED[6:8], *RETURN, unpinned], 1),
        ([*LISTED[:2], pinned, *LISTED[6:8], *RETURN, *FINISH, unpinned], 0),
        ([*LISTED[:5], *LISTED[6:8], *ZAP[2:5], *RETURN, unpinned], 0),
    ):
        _, exercised = check(entries(steps), Sync.FAULTING)
        assert exercised["S2/CLEAR/blockable/present"] == count_of, steps


def test_a_retry_is_needless_if_nothing_has_changed() -> None:
    true: list[Step] = [*CHECK[:1], (DRIVER, What.READ_RETRY, SUBSCRIPTION, 1, 1)]
    quiet = [ZAP[0], ZAP[1], ZAP[-1]]
    looked = [*SETUP, *LOOKUP, *start(), *quiet, *RETURN]
    for steps, expected in (
        ([*looked, *true], (1, 0)),
        ([*looked, *FINISH, *true], (1, 0)),
        ([*looked, FINISH[-1], *true], (1, 1)),
        ([*SETUP, *LOOKUP, *true], (0, 1)),
    ):
        _, exercised = check(entries(steps), Sync.FAULTING)
        assert (exercised["I9"], exercised["I10"]) == expected, steps


def test_busy_means_a_new_read_section() -> None:
    busy: list[Step] = [*LOOKUP[:2], (DRIVER, What.COLLECTED, 0, -16)]
    assert broken([*SETUP, *busy, LOOKUP[1]]) == "H2"
    assert not broken([*SETUP, *busy, *LOOKUP, *CHECK, *COMMIT])


def test_the_lock_is_kept_from_check_to_commit() -> None:
    again: list[Step] = [(DRIVER, What.UNLOCK, LOCK, 0), (DRIVER, What.ACQUIRE, LOCK, 0)]
    assert broken([*SETUP, *LOOKUP, *CHECK, *again, *COMMIT]) == "H2"


def test_a_true_check_is_final() -> None:
    true = [*CHECK[:1], (DRIVER, What.READ_RETRY, SUBSCRIPTION, 1, 1)]
    assert broken([*SETUP, *LOOKUP, *true, *COMMIT]) == "I9"


def test_nothing_is_mapped_between_start_and_end() -> None:
    quiet = [ZAP[0], ZAP[1], ZAP[-1]]
    late: list[Step] = [
        (DRIVER, What.READ_BEGIN, SUBSCRIPTION, 3),
        (DRIVER, What.COLLECT, 0, 0, 3, 4, 3, "w"),
        *LOOKUP[2:],
        CHECK[0],
        (DRIVER, What.READ_RETRY, SUBSCRIPTION, 3, 0),
        *COMMIT,
    ]
    begun = [*SETUP, *start(), *quiet, *RETURN]
    assert broken([*begun, *late]) == "S2"
    assert not broken([*begun, *FINISH, *late])


def test_what_was_looked_up_before_an_invalidation_is_stale() -> None:
    quiet = [ZAP[0], ZAP[1], ZAP[-1]]
    between = [*start(), *quiet, *RETURN, *FINISH]
    assert broken([*SETUP, *LOOKUP, *between, *CHECK, *COMMIT]) == "I9"


def test_only_own_migration_and_exclusive_may_be_skipped() -> None:
    for event in Event:
        skipped = [*MAPPED, *start(event, owner=0), *RETURN]
        own = event in (Event.MIGRATE, Event.EXCLUSIVE)
        assert bool(broken(skipped)) == (not own), event
        assert broken(skipped, profile=Profile.STRICT) == "I6", event
    assert broken([*MAPPED, *start(Event.MIGRATE, owner=1), *RETURN]) == "I6"


def test_a_refusal_leaves_no_trace() -> None:
    refused = [*MAPPED, *start(blockable=0)]
    assert not broken([*refused, *REFUSE])
    assert broken([*refused, ZAP[0], *REFUSE]) == "B6"
    assert broken([*refused, *ZAP, *REFUSE]) == "B6"
    assert broken([*refused, (CPU, What.SLEEP, 0)]) == "B6"


@pytest.mark.parametrize(("rights", "rule"), [("-w", ""), ("-r", "E.PROTECTION_VMA")])
def test_no_right_outlives_its_loss(rights: str, rule: str) -> None:
    kept = [*MAPPED, *start(Event.PROTECTION_VMA), ZAP[0], ZAP[1], ZAP[-1], *RETURN]
    assert broken([*kept, (CPU, What.CHANGE, 0, 2, 4, 2, rights)]) == rule


def test_the_end_of_a_process_finds_no_translation() -> None:
    end: list[Step] = [
        (CPU, What.RELEASE, 0, 0, "pppppppp"),
        (CPU, What.CHANGE, 0, 0, 8, int(Event.UNMAP), ""),
    ]
    assert broken([*MAPPED, *end]) == "L2"
    assert not broken([*SETUP, *end])


MOVE: list[Step] = [
    (DRIVER, What.SETUP, 0, 0, 3, 0, 5),
    (DRIVER, What.COPY, 5, 90),
    (DRIVER, What.PAGES, 0, 0, 3, 90),
    (DRIVER, What.FINALIZE, 0, 0, 3),
]
TO_COPY: Step = (DRIVER, What.DEVICE_MAP, 0, 0, 3, LOCAL | 90, 1)


def test_migration_in_its_order() -> None:
    assert not broken([*SETUP, *MOVE])
    assert not broken([*SETUP, *MOVE[:3], TO_COPY, MOVE[3]])
    assert broken([*SETUP, *MOVE[:2], TO_COPY]) == "G6"
    assert broken([*SETUP, *without(MOVE, What.COPY)]) == "G7"
    assert broken([*SETUP, *without(MOVE, What.SETUP)]) == "G3"
    assert broken([*SETUP, (DRIVER, What.SETUP, 0, 0, 3, -22), *MOVE[2:]]) == "G1"
    assert broken([*MAPPED, *MOVE]) == "E2"
    assert broken([*SETUP, *MOVE[:2], (ENGINE, What.ACCESS, 0, 0, 3, 5, 1)]) == "G3"
    lost: list[Step] = [*MOVE[:2], (DRIVER, What.PAGES, 0, 0, 3, -90)]
    assert broken([*SETUP, *lost, TO_COPY]) == "G6"


def test_exclusive_pages_are_mapped_in_a_read_section_that_began_before() -> None:
    taken: Step = (DRIVER, What.EXCLUSIVE, 0, 0, 3, 5)
    begin: Step = LOOKUP[0]
    assert not broken([*SETUP, begin, taken, *CHECK, *COMMIT])
    assert broken([*SETUP, taken, begin, *CHECK, *COMMIT]) == "X1"
    assert broken([*SETUP, begin, taken, CHECK[0], *COMMIT]) == "X1"


REGION: list[Step] = [
    (DRIVER, What.ATTACH, 0, 0, 0),
    (DRIVER, What.PIN, 5, 1, 0, 3, 0),
    (DRIVER, What.DMA_MAP, 0, 1, 5),
    (DRIVER, What.DEVICE_MAP, 0, 1, 3, 1, 1),
]


def test_pins_outlive_what_leads_to_their_pages() -> None:
    gone: list[Step] = [
        (DRIVER, What.DEVICE_UNMAP, 0, 1, 3),
        (DRIVER, What.FLUSH, 0, 3, 4),
        (DRIVER, What.DMA_UNMAP, 0, 1),
        (DRIVER, What.UNPIN, 5, 0),
    ]
    assert not broken([*REGION, *gone], Sync.REGISTRATION)
    assert broken([*REGION, gone[-1]], Sync.REGISTRATION) == "P2"
    assert broken([*REGION, *gone[1:]], Sync.REGISTRATION) == "S5"
    assert broken(without(REGION, What.PIN), Sync.REGISTRATION) == "S4"


def test_read_sections_begin_under_no_lock_that_callbacks_take() -> None:
    under = [*SETUP, CHECK[0], LOOKUP[0], COMMIT[-1]]
    assert broken([*under, *start(), *ZAP]) == "I7"
    assert broken([*SETUP, *start(), *ZAP, *RETURN, *FINISH, *under]) == "I7"


def test_what_is_counted() -> None:
    _, exercised = check(entries([*MAPPED, *start(), *ZAP, *RETURN, *FINISH]), Sync.FAULTING)
    assert exercised["I12/CLEAR/blockable/present"] == 1
    assert not exercised["I12/CLEAR/blockable/hole"], "the device had nothing of that page"
    assert count(exercised, "I12/*/blockable/*") == 1
    lacking = missing(exercised, Sync.FAULTING, {"map", "exclusive"})
    assert "I12/CLEAR/blockable/present" not in lacking
    assert "I12/UNMAP/blockable/present" in lacking
    assert "I12/UNMAP/blockable/exclusive" in lacking
    assert "I12/UNMAP/blockable/device" not in lacking, "its device has no memory"
    assert "I12/CLEAR/blockable/hole" in lacking
    exercised["H1"] = 0
    assert "I12/CLEAR/blockable/hole" not in missing(exercised, Sync.FAULTING, {"map"})


def test_coverage_names_rules_that_exist() -> None:
    patterns = {pattern.split("/")[0] for each in REQUIRED.values() for pattern in each}
    assert patterns | CONDITIONS.keys() | UNTESTED.keys() <= RULES.keys()
    assert not UNTESTED.keys() & (patterns | CONDITIONS.keys())
    for model, each in REQUIRED.items():
        for pattern in each:
            assert model in RULES[pattern.split("/")[0]].models, pattern


def test_the_checker_and_the_hardware_agree_on_local_addresses() -> None:
    assert CHECKED == LOCAL


@pytest.mark.parametrize(
    "step",
    [
        (CPU, What.START, 9),
        (CPU, What.START, 9, 0, 2, 4, "clear", -1, 1, "hp"),
        (DRIVER, What.DEVICE_MAP, 0, 0, 3),
        (DRIVER, What.READ_RETRY),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(step: Step) -> None:
    with pytest.raises(ValueError, match=r"^entry 3 of the event record makes no sense"):
        check(entries([*SETUP, step]), Sync.FAULTING)


def test_ranges_without_end_are_no_endless_work() -> None:
    everything: list[Step] = [
        (CPU, What.START, 9, 0, 0, 1 << 62, int(Event.CLEAR), -1, 1, "hhpp"),
        *start()[1:],
    ]
    assert not broken([*MAPPED, *everything, *ZAP, *RETURN, *FINISH])
    assert broken([*MAPPED, *everything, *ZAP[:2], ZAP[-1], *RETURN]) == "I12"
