"""Candidates written in Python: loading them, and holding them to the protocol."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from reference.description import Description
from reference.operations import Kind, Operation
from reference.outcomes import Outcome, Status
from reference.schema import U16, U32

from .candidate import Candidate, CandidateError, GarbageError, Scheduled

__all__ = ["adopt", "check_outcomes", "describe", "find", "load_python", "located"]

_MAX_TEXT = 2000


def load_python(spec: str) -> Candidate:
    """The candidate at `module:name` or `path/to/file.py:name`.

    The name is a class or factory, called without arguments, or a candidate itself.
    `CandidateError` says what is missing, or what its code raised and where.
    """
    return adopt(find(spec), spec)


def find(spec: str) -> Any:
    """The object at `module:name` or `path/to/file.py:name`; `CandidateError` as above."""
    place, _, name = spec.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    thing: Any = module
    for part in name.split("."):
        if not hasattr(thing, part):
            raise CandidateError(f"{spec}: {place} has no {name}")
        thing = getattr(thing, part)
    return thing


def adopt(thing: Any, spec: str) -> Candidate:
    """The candidate that `thing` is or makes; `CandidateError` if it is none."""
    if isinstance(thing, type) or (callable(thing) and not hasattr(thing, "describe")):
        try:
            thing = thing()
        except (Exception, SystemExit) as error:
            raise CandidateError(f"{spec}: making it raised {located(error)}") from error
    for method in ("describe", "reset", "run"):
        if not callable(getattr(thing, method, None)):
            raise CandidateError(f"{spec}: {type(thing).__name__} has no method {method}")
    return cast("Candidate", thing)


def _from_module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        # The candidate's own imports may be what is missing: that is told apart here.
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise CandidateError(f"no such module: {error.name}") from None
        raise CandidateError(f"importing {place} raised {located(error)}") from error
    except (Exception, SystemExit) as error:
        raise CandidateError(f"importing {place} raised {located(error)}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CandidateError(f"no such file: {path}")
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what it imports from beside it
    spec = importlib.util.spec_from_file_location(f"candidate_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CandidateError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise CandidateError(f"importing {path} raised {located(error)}") from error
    return module


def describe(candidate: Candidate | Scheduled, spec: str) -> Description:
    """The candidate's checked description; `CandidateError` if it has none to give."""
    try:
        description: object = candidate.describe()
    except (Exception, SystemExit) as error:
        raise CandidateError(f"{spec}: describe raised {located(error)}") from error
    if not isinstance(description, Description):
        raise CandidateError(
            f"{spec}: describe gave {_kind_of(description)} instead of a Description"
        )
    try:
        description.check()
    except (ValueError, TypeError) as error:
        raise CandidateError(f"{spec}: bad description: {error}") from None
    return description


def check_outcomes(
    operations: Sequence[Operation], outcomes: object, first: int = 0
) -> list[Outcome]:
    """What a candidate's `run` gave, as outcomes; `GarbageError` if it is something else.

    `first` is the number in the program of the first of the operations.
    """
    if not isinstance(outcomes, Sequence):
        raise GarbageError(f"run gave {_kind_of(outcomes)} instead of a sequence of outcomes")
    if len(outcomes) != len(operations):
        raise GarbageError(f"run gave {len(outcomes)} outcomes for {len(operations)} operations")
    checked = []
    for index, outcome in enumerate(outcomes):
        problem = _problem(outcome)
        if problem is not None:
            name = Kind(operations[index].kind).name.lower()
            raise GarbageError(f"outcome of operation {first + index} ({name}): {problem}")
        checked.append(outcome if type(outcome) is Outcome else Outcome(*outcome))
    return checked


def _problem(outcome: object) -> str | None:
    if not isinstance(outcome, tuple) or len(outcome) != 4:
        return f"{_kind_of(outcome)} is no Outcome"
    status, error, done, data = outcome
    if not (isinstance(status, int) and 0 <= status <= _LAST):
        return f"status {status!r} is no Status"
    if not (isinstance(error, int) and 0 <= error <= _MAX_U16):
        return f"error {error!r} is no errno"
    if not (isinstance(done, int) and 0 <= done <= _MAX_U32):
        return f"done {done!r} is no number of bytes"
    # Other buffers may change after the answer, or count items instead of bytes.
    return None if type(data) is bytes else f"data is {_kind_of(data)} instead of bytes"


_LAST = max(Status)
_MAX_U16 = U16.maximum
_MAX_U32 = U32.maximum


def _kind_of(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__}"


def located(error: BaseException) -> str:
    """The exception's type and message, and the file and line where it was raised."""
    try:
        text = " ".join(str(error).split())[:_MAX_TEXT]
    except Exception:
        text = "(its text cannot be had)"
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "somewhere"
    kind = type(error).__name__
    return f"{kind}: {text} ({where})" if text else f"{kind} ({where})"
