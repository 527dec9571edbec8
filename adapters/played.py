"""Payloads of PLAY and PLAYED: a program with its schedule, and all that the host saw of it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from reference.geometry import Geometry
from reference.operations import ACCESSES, WORD, Kind, Operation
from reference.outcomes import Outcome
from reference.program import Program
from reference.rules import RULES
from reference.schedule import ACTORS
from reference.schema import U32
from reference.trace import Hosted, Trace
from reference.validity import check_program

from .candidate import GarbageError
from .python import check_outcomes
from .wire import WireError, printable

__all__ = ["MAX_PLAYED", "decode_play", "decode_played", "encode_play", "encode_played"]

MAX_PLAYED = 16 << 20
"""Bytes of the payload of a PLAYED frame."""
_NUMBERS = frozenset(ACTORS.values())
_MAX_U32 = U32.maximum
_CUT = ("page", "pages", "offset", "length", "value", "expected")
"""Fields of an operation that parts of it may have otherwise."""


class _Played(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    outcomes: tuple[Outcome, ...]
    hosted: Hosted


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER = msgspec.msgpack.Decoder(_Played)


def encode_play(program: Program) -> bytes:
    """The packed program."""
    return program.to_bytes()


def decode_play(payload: bytes) -> Program:
    """A valid program; `WireError` if there is none."""
    try:
        program = Program.from_bytes(payload)
        check_program(program)
    except ValueError as error:
        raise WireError(f"bad program: {error}") from None
    return program


def encode_played(trace: Trace) -> bytes:
    """What came of a program, as MessagePack; `GarbageError` if that is too much."""
    assert trace.hosted is not None, "the candidate runs schedules"
    payload = _ENCODER.encode(_Played(trace.outcomes, trace.hosted))
    if len(payload) > MAX_PLAYED:
        raise GarbageError(f"a run of {len(payload)} bytes, more than {MAX_PLAYED}")
    return payload


def decode_played(payload: bytes, program: Program) -> Trace:
    """What came of a program; `WireError` says what is wrong with it."""
    if len(payload) > MAX_PLAYED:
        raise WireError(f"a run of {len(payload)} bytes, more than {MAX_PLAYED}")
    try:
        played = _DECODER.decode(payload)
        _check(played, program)
    except (msgspec.DecodeError, ValueError) as error:
        raise WireError(f"bad run: {printable(str(error))}") from None
    return Trace(program, played.outcomes, hosted=played.hosted)


def _check(played: _Played, program: Program) -> None:
    """`GarbageError` unless all numbers name what there is."""
    hosted, count = played.hosted, len(program)
    answered = len(played.outcomes)
    if answered > count or (answered < count and hosted.broken is None):
        raise GarbageError(f"{answered} outcomes for {count} operations")
    check_outcomes(program.operations[:answered], played.outcomes)
    _check_history(hosted, program)
    for each in hosted.taken:
        _check_place(each.switch[:3], (each.switch.to,))
    for offer in hosted.offers:
        _check_place(offer[:3], offer.to)
    entries = [each.entry for each in hosted.history] + [each.entry for each in hosted.taken]
    if entries and not 0 <= min(entries) <= max(entries) <= len(hosted.record):
        raise GarbageError("something happened outside the event record")
    broken = hosted.broken
    if broken and (broken.rule not in RULES or not 0 <= broken.operation < max(count, 1)):
        raise GarbageError(f"rule {broken.rule!r} broken in operation {broken.operation}")
    texts = [each.where for each in hosted.taken] + ([broken.message] if broken else [])
    for text in texts:
        if not text.isprintable():
            raise GarbageError(f"unprintable characters in {text[:80]!r}")


def _check_history(hosted: Hosted, program: Program) -> None:
    operations = program.operations
    for each in hosted.history:
        index, part = each.index, each.operation
        if not 0 <= index < len(operations):
            raise GarbageError(f"an effect of operation {index}")
        if part != operations[index] and not _is_part(part, operations[index], program.geometry):
            raise GarbageError(f"an effect that is no part of operation {index}")
    check_outcomes(
        [each.operation for each in hosted.history], [each.outcome for each in hosted.history]
    )


def _is_part(part: Operation, whole: Operation, geometry: Geometry) -> bool:
    """Whether it is the same operation on some of its memory, or what that does first."""
    if whole.kind == Kind.REMAP:
        return part == whole._replace(kind=Kind.UNMAP, page=whole.target, target=0, flags=0)
    if part._replace(**{name: getattr(whole, name) for name in _CUT}) != whole:
        return False
    if part.value < 0 or part.expected < 0:
        return False
    if whole.kind not in ACCESSES:
        end = part.page + part.pages
        rest = part.offset == part.length == 0
        return rest and whole.page <= part.page < end <= whole.page + whole.pages
    size = geometry.page_size
    start, begin = (each.page * size + each.offset for each in (part, whole))
    return (
        begin <= start < start + part.length <= begin + whole.length
        and part.pages == 0
        and 0 <= part.offset < size
        and not part.offset % WORD
        and not part.length % WORD
    )


def _check_place(place: tuple[int, int, int], others: Iterable[int]) -> None:
    actor, operation, point = place
    known = {actor, *others} <= _NUMBERS
    if not (known and 0 <= operation <= _MAX_U32 and 0 <= point <= _MAX_U32):
        raise GarbageError(f"no protocol point {place} with others {tuple(others)}")
