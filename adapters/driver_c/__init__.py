"""Drivers in C, as shared libraries or as source that is compiled on the spot."""

from __future__ import annotations

from pathlib import Path

from adapters.candidate import CandidateError
from reference.syncmodels import Sync

from .compiling import INCLUDE, compile_driver
from .driver import METHODS, CDriver
from .library import Claims, Library

__all__ = ["INCLUDE", "CDriver", "load_c_driver"]

_METHOD_NAMES = {"register_range": "register", "unregister_range": "unregister"}


def load_c_driver(path: Path) -> type[CDriver]:
    """The driver in a `.c` or `.so` file; `CandidateError`, one line, if there is none.

    The class makes a driver for each device, as a driver in Python does.  It overrides those
    methods of `Driver` for which the library has a callback.
    """
    if not path.is_file():
        raise CandidateError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if path.suffix not in {".c", ".so"}:
        raise CandidateError(f"{path}: a driver in C is a .c or an .so file")
    library = Library(path, compile_driver(path) if path.suffix == ".c" else path)
    return _make_class(library, library.claims)


def _make_class(library: Library, claims: Claims) -> type[CDriver]:
    methods = {
        _METHOD_NAMES.get(name, name): method
        for name, method in METHODS.items()
        if name in claims.callbacks
    }
    attributes = {
        "__doc__": f"The driver {claims.name} of {library.path}.",
        "library": library,
        "name": claims.name,
        "model": Sync(claims.model),
        "keyed": claims.keyed,
        "page_faults": claims.page_faults,
    }
    return type("CDriver", (CDriver,), attributes | methods)
