"""Random and written programs for the in-memory mirrors, and what runs them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from reference.description import Description
from reference.geometry import Geometry
from reference.mirrors import Mirror
from reference.model import judge
from reference.operations import ACCESSES, DEVICE_ACCESSES, WORD, Event, Flag, Kind, Operation
from reference.outcomes import Outcome
from reference.program import Program
from reference.signatures import SIGNATURES
from reference.text import parse
from reference.trace import Judgement, Trace
from reference.validity import check_program, repair

RIGHTS = (Flag.READ, Flag.READ | Flag.WRITE, Flag.READ | Flag.WRITE)
WEIGHTS = {
    Kind.EXIT: 1,
    Kind.DETACH: 1,
    Kind.FORK: 4,
    Kind.TRUNCATE: 3,
    Kind.ATTACH: 4,
} | dict.fromkeys((*ACCESSES, Kind.SUBMIT, Kind.WAIT), 20)


def random_program(
    description: Description,
    seed: int,
    kinds: frozenset[Kind] | None = None,
    *,
    length: int = 80,
    page_size: int = 4096,
) -> Program:
    """Dense and plain: a mapping and attached devices, then anything at all."""
    rng = random.Random(seed)
    pages = rng.choice((3, 4, 8))
    geometry = description.limit(Geometry(page_size=page_size, pages=pages))
    choice = sorted(kinds or description.kinds(page_size))
    drawn = rng.choices(choice, [WEIGHTS.get(kind, 6) for kind in choice], k=length)
    operations = [*_opening(rng, description, pages)] if kinds is None else []
    for index, kind in enumerate(drawn):
        operations.append(_operation(rng, description, geometry, kind, (index + 1) << 20))
    return Program(tuple(repair(operations, geometry)), geometry, description.model, seed)


def _opening(rng: random.Random, description: Description, pages: int) -> Iterator[Operation]:
    yield Operation(Kind.MAP, 0, 0, 3 | rng.choice((0, 0, int(Flag.SHARED))), 0, pages)
    for device in range(description.devices):
        yield Operation(Kind.ATTACH, 0, device, 0, 0, 0)
        if description.keyed:
            yield Operation(Kind.REGISTER, 0, device, 3, 0, rng.randint(1, pages), key=1)


def _operation(
    rng: random.Random, description: Description, geometry: Geometry, kind: Kind, stamp: int
) -> Operation:
    """One operation of a kind, with all the fields that the kind uses."""
    page = rng.randrange(geometry.pages)
    flags, file, target = _mapping(rng, geometry, kind)
    key = rng.choice((1, 1, 2, 3)) if description.keyed else 0
    job = rng.randint(1, geometry.jobs)
    if kind in DEVICE_ACCESSES and rng.random() < 0.7:
        job = 0
    fields = {
        "process": rng.choice((0, 0, 0, 1, 2)),
        "device": rng.randrange(geometry.devices),
        "page": page,
        "pages": rng.randint(1, geometry.pages - page),
        "offset": WORD * rng.choice((0, 0, 0, 1, geometry.page_size // WORD - 1)),
        "length": WORD,
        "target": target,
        "file": file,
        "key": key,
        "job": job,
        "event": rng.randrange(len(Event) - 1),
        "value": stamp,
        "expected": rng.choice((0, stamp - (1 << 20))),
    }
    if rng.random() < 0.2:
        room = (geometry.pages - page) * geometry.page_size - fields["offset"]
        fields["length"] = min(room, rng.choice((16, 24, 4104)))
    used = SIGNATURES[kind].fields
    plain = dict.fromkeys(("process", "device", "page", "pages"), 0)
    return Operation(
        kind, flags=flags, **plain | {name: n for name, n in fields.items() if name in used}
    )


def _mapping(rng: random.Random, geometry: Geometry, kind: Kind) -> tuple[int, int, int]:
    """Flags, file and target: what differs most between the kinds."""
    file, target = rng.randrange(geometry.files), rng.randrange(geometry.pages)
    match kind:
        case Kind.MAP:
            flags = int(rng.choice(RIGHTS)) | rng.choice((0, int(Flag.SHARED)))
            if rng.random() < 0.5:
                return flags | Flag.FILE, file, target
            return flags, 0, 0
        case Kind.PROTECT:
            return rng.choice((0, *RIGHTS)), 0, 0
        case Kind.FAULT | Kind.REGISTER:
            return rng.choice(RIGHTS), 0, 0
        case Kind.REMAP:
            return rng.choice((0, int(Flag.DONTUNMAP))), 0, target
        case Kind.INVALIDATE:
            return rng.choice((0, int(Flag.NONBLOCK))), 0, 0
        case Kind.FORK:
            return 0, 0, rng.randrange(geometry.processes)
    return 0, file, 0


def run(mirror: Mirror, program: Program) -> tuple[Outcome, ...]:
    mirror.reset(program.geometry)
    return tuple(mirror.run(program.operations))


def judged(mirror: Mirror, program: Program) -> Judgement:
    return judge(Trace(program, run(mirror, program)))


def script(mirror: Mirror, lines: str, page_size: int = 4096) -> Program:
    """A program from its operation lines, with as much of everything as the mirror has."""
    description = mirror.describe()
    geometry = description.limit(Geometry(page_size=page_size))
    sizes = " ".join(f"{name}={size}" for name, size in geometry._asdict().items())
    header = f"lastwriter 1\nmodel {description.model}\ngeometry {sizes}\n"
    program = parse(header + "".join(f"{line.strip()}\n" for line in lines.strip().splitlines()))
    check_program(program)
    return program
