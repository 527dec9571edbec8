"""The text form of a program: a header, then one operation a line, `#` begins a comment.

>>> from reference.text import parse, dump
>>> program = parse('''lastwriter 1
... map p0 rw page=0 pages=1
... write p0 page=0 offset=0 length=8 value=0x100000
... ''')
>>> len(program), program.geometry.pages
(2, 16)
>>> dump(parse(dump(program))) == dump(program)
True
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from .geometry import Geometry
from .operations import OPERATION, Event, Flag, Kind, Operation
from .program import Comment, Program
from .schedule import (
    PLAIN,
    SITES,
    STRATEGIES,
    Injection,
    Schedule,
    Switch,
    actor_name,
    actor_number,
)
from .schema import ABI_VERSION, U16, U32, U64
from .signatures import RIGHTS, SIGNATURES, Argument
from .syncmodels import Sync
from .validity import Liveness

__all__ = ["ParseError", "dump", "format_operation", "parse"]

_TITLE = "lastwriter"
_TOKEN = re.compile(r"[^\s#]+")
_NEWLINE = re.compile(r"\r\n?|\n")
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}")
_MAXIMA = {field.name: field.width.maximum for field in OPERATION.fields}
_KINDS = {kind.name.lower(): kind for kind in Kind}
_EVENTS = {event.name.lower(): event for event in Event}


class ParseError(ValueError):
    """Text that is no program: says where (file, line, column) and what."""

    def __init__(self, name: str, line: int, column: int, problem: str) -> None:
        super().__init__(f"{name}:{line}:{column}: {problem}")
        self.line = line
        self.column = column


# -- printing ---------------------------------------------------------------------------------


def format_operation(operation: Operation) -> str:
    """One operation as it stands in a program's text."""
    kind = Kind(operation.kind)
    words = [kind.name.lower()]
    for argument in SIGNATURES[kind].arguments:
        text = _PRINTERS[argument.style](argument, getattr(operation, argument.field))
        if not (argument.optional and _absent(argument, operation)):
            words.append(text)
    return " ".join(words)


def _absent(argument: Argument, operation: Operation) -> bool:
    if argument.flag:
        return not operation.flags & argument.flag
    return not getattr(operation, argument.field)


_RIGHTS_MASK = Flag.READ | Flag.WRITE
_RIGHTS_NAMES = {flags: name for name, flags in RIGHTS.items()}
_PRINTERS: dict[str, Callable[[Argument, int], str]] = {
    "number": lambda argument, value: f"{argument.name}={value}",
    "hex": lambda argument, value: f"{argument.name}={value:#x}",
    "process": lambda argument, value: f"p{value}",
    "device": lambda argument, value: f"d{value}",
    "child": lambda argument, value: f"{argument.name}=p{value}",
    "event": lambda argument, value: f"{argument.name}={Event(value).name.lower()}",
    "rights": lambda argument, value: _RIGHTS_NAMES[Flag(value) & _RIGHTS_MASK],
    "word": lambda argument, value: argument.name,
}


def dump(program: Program) -> str:
    """The text of a program; `parse` gives it back exactly, comments included.

    Comments lose white space around them, and one of several lines becomes several.
    """
    return "\n".join(_lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    yield f"{_TITLE} {ABI_VERSION}"
    yield f"model {program.model}"
    fields = program.geometry._asdict().items()
    yield " ".join(["geometry", *(f"{name}={value}" for name, value in fields)])
    yield f"seed {program.seed}"
    yield from _schedule_lines(program.schedule)
    before: dict[int, list[str]] = {}
    beside: dict[int, str] = {}
    for comment in program.comments:
        lines = _NEWLINE.split(comment.text)
        if comment.inline:
            beside[comment.index] = "  " + _comment(" ".join(lines))
        else:
            before.setdefault(comment.index, []).extend(map(_comment, lines))
    for index, operation in enumerate(program.operations):
        yield from before.get(index, ())
        yield format_operation(operation) + beside.get(index, "")
    yield from before.get(len(program.operations), ())


def _schedule_lines(schedule: Schedule) -> Iterator[str]:
    if (schedule.strategy, schedule.seed, schedule.depth) != _STRATEGY:
        yield f"strategy {schedule.strategy} seed={schedule.seed} depth={schedule.depth}"
    for actor, operation, point, to in schedule.switches:
        place = f"operation={operation} point={point}"
        yield f"switch {actor_name(actor)} {place} to={actor_name(to)}"
    for site, number in schedule.injections:
        yield f"fail {site} {number}"


_STRATEGY = (PLAIN.strategy, PLAIN.seed, PLAIN.depth)


def _comment(text: str) -> str:
    return f"# {text.strip()}".rstrip()


# -- parsing ----------------------------------------------------------------------------------


def parse(text: str, name: str = "<program>") -> Program:
    """The program that a text holds; `ParseError` with line and column if it holds none."""
    return _Parser(text, name).program()


class _Line:
    """The words of one line, taken off from the left."""

    def __init__(self, parser: _Parser, number: int, text: str) -> None:
        self.number = number
        self.parser = parser
        content, _, comment = text.partition("#")
        self.comment = comment.strip() if "#" in text else None
        self.words = [(match.start() + 1, match.group()) for match in _TOKEN.finditer(content)]
        self.start = self.words[0][0] if self.words else 1
        self.end = len(content.rstrip()) + 1

    def take(self, what: str) -> tuple[int, str]:
        if not self.words:
            self.fail(self.end, f"expected {what}")
        return self.words.pop(0)

    def finish(self) -> None:
        if self.words:
            self.fail(self.words[0][0], f"unexpected {self.words[0][1]!r}")

    def fail(self, column: int, problem: str) -> NoReturn:
        raise ParseError(self.parser.name, self.number, column, problem)

    def fields(self, known: Iterable[str]) -> dict[str, tuple[int, str]]:
        """The rest of the line, `name=value` each: the values by name, with their columns."""
        found: dict[str, tuple[int, str]] = {}
        names = frozenset(known)
        while self.words:
            column, word = self.words.pop(0)
            key, equals, value = word.partition("=")
            if key not in names or key in found:
                self.fail(column, f"unknown or repeated field {key!r}")
            if not equals:
                self.fail(column + len(key), "expected '='")
            found[key] = column + len(key) + 1, value
        return found

    def numbers(self, known: Mapping[str, int]) -> dict[str, int]:
        """The rest of the line, `name=number` each; `known` gives the maxima."""
        return {
            name: self.number_in(*place, known[name]) for name, place in self.fields(known).items()
        }

    def choice(self, what: str, known: Sequence[str]) -> str:
        """The next word, one of these."""
        column, word = self.take(what)
        if word not in known:
            self.fail(column, f"expected one of {', '.join(known)}, got {word!r}")
        return word

    def actor(self, column: int, word: str) -> int:
        try:
            return actor_number(word)
        except ValueError as error:
            self.fail(column, str(error))

    def number_in(self, column: int, text: str, maximum: int) -> int:
        if not _NUMBER.fullmatch(text):
            self.fail(column, f"expected a number, got {text!r}")
        value = int(text, 0) if text.startswith("0x") else int(text)
        if value > maximum:
            self.fail(column, f"{text} is above {maximum}")
        return value


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.lines = [
            _Line(self, number, line) for number, line in enumerate(_NEWLINE.split(text), 1)
        ]
        self.model = Sync.FAULTING
        self.geometry = Geometry()
        self.seed = 0
        self.schedule = PLAIN
        self.switches: list[Switch] = []
        self.injections: list[Injection] = []
        self.comments: list[Comment] = []
        self.operations: list[Operation] = []

    def program(self) -> Program:
        self._title()
        self._note(self.lines[0], inline=False)
        liveness: Liveness | None = None
        headers: dict[str, int] = {}
        """Line of each header that was met."""
        for line in self.lines[1:]:
            if not line.words:
                self._note(line, inline=False)
                continue
            column, word = line.words[0]
            if word in _HEADERS:
                if liveness is not None:
                    line.fail(column, f"{word} belongs before the first operation")
                if word in headers and word not in _REPEATED:
                    line.fail(column, f"{word} stands in line {headers[word]} already")
                headers[word] = line.number
                del line.words[0]
                _HEADERS[word](self, line)
                self._note(line, inline=False)
                continue
            liveness = liveness or Liveness(self.geometry)
            self._operation(line, liveness)
        return Program(
            tuple(self.operations),
            self.geometry,
            self.model,
            self.seed,
            tuple(self.comments),
            replace(
                self.schedule, switches=tuple(self.switches), injections=tuple(self.injections)
            ),
        )

    def _title(self) -> None:
        line = self.lines[0]
        column, word = line.take(f"'{_TITLE} {ABI_VERSION}'")
        if word != _TITLE:
            line.fail(column, f"expected '{_TITLE} {ABI_VERSION}', got {word!r}")
        column, word = line.take("a version")
        if line.number_in(column, word, 1 << 32) != ABI_VERSION:
            line.fail(column, f"program of version {word}, this is {ABI_VERSION}")
        line.finish()

    def _note(self, line: _Line, *, inline: bool) -> None:
        if line.comment is not None:
            self.comments.append(Comment(len(self.operations), line.comment, inline))

    def _model(self, line: _Line) -> None:
        self.model = Sync(line.choice("a sync model", tuple(Sync)))
        line.finish()

    def _geometry(self, line: _Line) -> None:
        self.geometry = Geometry(**line.numbers(dict.fromkeys(Geometry._fields, U32.maximum)))
        try:
            self.geometry.check()
        except ValueError as error:
            line.fail(line.start, str(error))

    def _seed(self, line: _Line) -> None:
        self.seed = line.number_in(*line.take("a number"), U64.maximum)
        line.finish()

    def _strategy(self, line: _Line) -> None:
        name = line.choice("a strategy", STRATEGIES)
        numbers = line.numbers({"seed": U64.maximum, "depth": U16.maximum})
        self.schedule = Schedule(
            strategy=name, seed=numbers.get("seed", 0), depth=numbers.get("depth", 0)
        )

    def _switch(self, line: _Line) -> None:
        actor = line.actor(*line.take("an actor (p0)"))
        fields = line.fields(("operation", "point", "to"))
        for name in ("operation", "point", "to"):
            if name not in fields:
                line.fail(line.end, f"expected {name}=")
        switch = Switch(
            actor,
            line.number_in(*fields["operation"], U32.maximum),
            line.number_in(*fields["point"], U32.maximum),
            line.actor(*fields["to"]),
        )
        self.switches.append(switch)

    def _fail(self, line: _Line) -> None:
        site = line.choice("a site", SITES)
        number = line.number_in(*line.take("a number"), U32.maximum)
        self.injections.append(Injection(site, number))
        line.finish()

    def _operation(self, line: _Line, liveness: Liveness) -> None:
        start, word = line.words.pop(0)
        if word not in _KINDS:
            line.fail(start, f"unknown operation {word!r}")
        operation = self._arguments(line, _KINDS[word])
        problem = liveness.step(operation)
        if problem is not None:
            line.fail(start, problem)
        self._note(line, inline=True)
        self.operations.append(operation)

    def _arguments(self, line: _Line, kind: Kind) -> Operation:
        values: dict[str, int] = {"kind": kind, "flags": 0}
        pending = list(SIGNATURES[kind].arguments)
        while line.words:
            column, word = line.words.pop(0)
            for argument in pending:
                value = _READERS[argument.style](line, column, word, argument)
                if value is not None:
                    break
            else:
                line.fail(column, f"unexpected {word!r}")
            pending.remove(argument)
            values["flags"] |= argument.flag
            if argument.field == "flags":
                values["flags"] |= value
            else:
                values[argument.field] = value
        for argument in pending:
            if not argument.optional:
                line.fail(
                    line.end, f"expected {_EXAMPLES.get(argument.style, argument.name + '=')}"
                )
        return Operation(**{name: values.get(name, 0) for name in Operation._fields})


_HEADERS = {
    "model": _Parser._model,
    "geometry": _Parser._geometry,
    "seed": _Parser._seed,
    "strategy": _Parser._strategy,
    "switch": _Parser._switch,
    "fail": _Parser._fail,
}
_REPEATED = frozenset({"switch", "fail"})
"""Headers that may stand more than once."""
_EXAMPLES = {"process": "a process (p0)", "device": "a device (d0)", "rights": "none, r or rw"}


def _read_named(line: _Line, column: int, word: str, argument: Argument) -> int | None:
    name, equals, value = word.partition("=")
    if name != argument.name or not equals:
        return None
    return line.number_in(column + len(name) + 1, value, _MAXIMA[argument.field])


def _read_indexed(prefix: str) -> Callable[[_Line, int, str, Argument], int | None]:
    pattern = re.compile(re.escape(prefix) + r"([0-9]{1,3})")

    def read(line: _Line, column: int, word: str, argument: Argument) -> int | None:
        match = pattern.fullmatch(word)
        if match is None:
            return None
        return line.number_in(column + len(prefix), match.group(1), _MAXIMA[argument.field])

    return read


def _read_event(line: _Line, column: int, word: str, argument: Argument) -> int | None:
    name, equals, value = word.partition("=")
    if name != argument.name or not equals:
        return None
    if value not in _EVENTS:
        line.fail(column + len(name) + 1, f"expected one of {', '.join(_EVENTS)}")
    return _EVENTS[value]


_READERS: dict[str, Callable[[_Line, int, str, Argument], int | None]] = {
    "number": _read_named,
    "hex": _read_named,
    "process": _read_indexed("p"),
    "device": _read_indexed("d"),
    "child": _read_indexed("child=p"),
    "event": _read_event,
    "rights": lambda line, column, word, argument: RIGHTS.get(word),
    "word": lambda line, column, word, argument: 0 if word == argument.name else None,
}
