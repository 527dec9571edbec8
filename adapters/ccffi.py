"""The same as `clib`, with less overhead per call, where cffi and a C compiler are.

A tiny extension module is compiled once into the user's cache folder.  It calls the library
through function pointers, so that one module serves every library.  Without cffi, a compiler
or a place to write, everything works through ctypes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import importlib.util
import platform
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from reference.cheader import HEADER
from reference.outcomes import OUTCOME
from reference.schema import ABI_VERSION

from .clib import Calls, CtypesCalls, Library, describe_library, open_library
from .compiler import CompilerError, cache_folder, find_compiler, run_compiler

__all__ = [
    "FastCalls",
    "fast_path",
    "fast_path_reason",
    "find_fast_path",
    "load_library",
]

_NAME = "_lastwriter_fast"
_DECLARATIONS = """
uint32_t fast_run(uintptr_t function, uintptr_t mirror, const char *operations, uint32_t count,
                  char *outcomes, char *data, uint32_t capacity);
"""
_SOURCE = """
#include <string.h>
#include "lastwriter.h"

typedef uint32_t (*run_function)(void *, const lw_operation *, uint32_t, lw_outcome *, uint8_t *,
                                 uint32_t);

/* As in clib.py: records are filled with what is no status, so one left out is noticed. */
static uint32_t fast_run(uintptr_t function, uintptr_t mirror, const char *operations,
                         uint32_t count, char *outcomes, char *data, uint32_t capacity)
{
    memset(outcomes, 0xff, (size_t)count * sizeof(lw_outcome));
    return ((run_function)function)((void *)mirror, (const lw_operation *)operations, count,
                                    (lw_outcome *)outcomes, (uint8_t *)data, capacity);
}
"""


class _Unavailable(Exception):
    """Why there is no fast path."""


class FastCalls:
    """The calls through the extension module; open and close are rare and stay with ctypes."""

    def __init__(self, library: ctypes.CDLL, module: ModuleType) -> None:
        slow = CtypesCalls(library)
        self.open = slow.open
        self.close = slow.close
        self._ffi: Any = module.ffi
        self._fast_run = module.lib.fast_run
        self._function = ctypes.cast(library.lw_run, ctypes.c_void_p).value
        self._grow_records(64 * OUTCOME.size)
        self._grow_data(4096)

    def _grow_records(self, size: int) -> None:
        self._records = self._ffi.new("char[]", size)
        self._records_view = memoryview(self._ffi.buffer(self._records))

    def _grow_data(self, size: int) -> None:
        self._data = self._ffi.new("char[]", size)
        self._data_view = memoryview(self._ffi.buffer(self._data))

    def run(
        self, mirror: int, operations: bytes, count: int, capacity: int
    ) -> tuple[int, memoryview, memoryview]:
        size = count * OUTCOME.size
        if size > len(self._records_view):
            self._grow_records(2 * size)
        if capacity > len(self._data_view):
            self._grow_data(2 * capacity)
        done: int = self._fast_run(
            self._function, mirror, operations, count, self._records, self._data, capacity
        )
        return done, self._records_view[:size], self._data_view[:capacity]


def load_library(path: Path) -> Library:
    """As `clib.load_library`, through the fast path if there is one."""
    library = open_library(path)
    module = fast_path()
    calls: Calls = CtypesCalls(library) if module is None else FastCalls(library, module)
    return Library(path, describe_library(path, library), calls)


def fast_path() -> ModuleType | None:
    """The extension module, compiled now if it never was; None, quietly, if it cannot be had."""
    return _found()[0]


def fast_path_reason() -> str:
    """One line: where the fast path is, or why there is none."""
    return _found()[1]


def find_fast_path() -> tuple[ModuleType | None, str]:
    """The extension module or None, and where it is or why it is not; looks anew every time."""
    try:
        module, path = _load_or_build()
    except (_Unavailable, CompilerError) as reason:
        return None, str(reason)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        return None, f"cannot keep the module in a cache folder: {error}"
    return module, str(path)


_found = functools.cache(find_fast_path)


def _load_or_build() -> tuple[ModuleType, Path]:
    path = cache_folder() / _key() / f"{_NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if path.exists():
        try:
            return _import(path), path
        except ImportError:
            path.unlink()  # damaged, say by a full disk: build it anew
    _build(path)
    try:
        return _import(path), path
    except ImportError as error:
        raise _Unavailable(f"the compiled module does not load: {error}") from None


def _key() -> str:
    """Name of the cache entry: whatever the compiled module depends on is in it."""
    try:
        backend = importlib.import_module("_cffi_backend")  # quicker than all of cffi
    except ImportError:
        raise _Unavailable("cffi is not installed") from None
    parts = (
        _DECLARATIONS,
        _SOURCE,
        HEADER.read_text(),
        backend.__version__,
        platform.python_version(),
        platform.machine(),
    )
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"abi{ABI_VERSION}-{digest[:20]}"


def _write_source(path: Path) -> None:
    """Write the C code of the extension module, as cffi generates it."""
    try:
        cffi, recompiler = map(importlib.import_module, ("cffi", "cffi.recompiler"))
    except ImportError as error:
        raise _Unavailable(f"cffi does not load: {error}") from None
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    recompiler.make_c_source(ffi, _NAME, _SOURCE, str(path))  # emit_c_code() would print


def _build(path: Path) -> None:
    """Compile to `path`; whoever else does so at the same time puts the same file there."""
    compiler = find_compiler()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source, built = Path(folder, f"{_NAME}.c"), Path(folder, path.name)
        _write_source(source)
        include = [f"-I{sysconfig.get_path('include')}", f"-I{HEADER.parent}"]
        command = [*compiler, "-O2", "-fPIC", "-shared", *include, str(source), "-o", str(built)]
        run_compiler(command)
        built.replace(path)


def _import(path: Path) -> ModuleType:
    """`ImportError` if the file is no extension module of this Python."""
    spec = importlib.util.spec_from_file_location(_NAME, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not what an extension module is called")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
