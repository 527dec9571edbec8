"""Fixed-width records, defined once.

A record is a `NamedTuple` whose fields are annotated with their width and meaning.  From that
one class come the struct format, the numpy dtype, the C struct and the table in the docs, so
none of them can drift from the others.  All records are little-endian and naturally aligned.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ABI_VERSION", "U8", "U16", "U32", "U64", "Field", "Layout", "layout_of"]

ABI_VERSION = 1
"""Version of the records below, of the C interface and of the wire protocol, kept in step."""


@dataclass(frozen=True)
class Width:
    """One unsigned integer width under its names in struct, numpy and C."""

    size: int
    struct_code: str
    numpy_code: str
    c_type: str

    @property
    def maximum(self) -> int:
        return int((1 << (8 * self.size)) - 1)


U8 = Width(1, "B", "u1", "uint8_t")
U16 = Width(2, "H", "<u2", "uint16_t")
U32 = Width(4, "I", "<u4", "uint32_t")
U64 = Width(8, "Q", "<u8", "uint64_t")


@dataclass(frozen=True)
class Field:
    """One field of a record: where it lies (bytes) and what it means."""

    name: str
    offset: int
    width: Width
    meaning: str


@dataclass(frozen=True)
class Layout:
    """The byte layout of one record type."""

    fields: tuple[Field, ...]
    size: int

    @cached_property
    def format(self) -> struct.Struct:
        return struct.Struct("<" + "".join(field.width.struct_code for field in self.fields))

    @property
    def dtype(self) -> np.dtype[Any]:
        # A candidate's process, which is started often, has no use for numpy.
        import numpy as np  # noqa: PLC0415

        return np.dtype([(field.name, field.width.numpy_code) for field in self.fields])

    def c_struct(self, name: str) -> str:
        """The C declaration of this record, with the meanings as comments."""
        declarations = [f"    {field.width.c_type} {field.name};" for field in self.fields]
        column = max(map(len, declarations)) + 1
        lines = [
            f"{declaration:<{column}}/* {field.offset:2}  {field.meaning} */"
            for declaration, field in zip(declarations, self.fields, strict=True)
        ]
        return "\n".join(["typedef struct {", *lines, f"}} {name};"])


def layout_of(record: type[NamedTuple]) -> Layout:
    """The layout of an annotated record class; `TypeError` if a field would need padding."""
    fields = tuple(_fields(record))
    size = fields[-1].offset + fields[-1].width.size
    if size % max(field.width.size for field in fields):
        raise TypeError(f"{record.__name__}: {size} bytes would need padding at the end")
    return Layout(fields, size)


def _fields(record: type[NamedTuple]) -> Iterator[Field]:
    offset = 0
    for name, hint in get_type_hints(record, include_extras=True).items():
        width, meaning = annotation_of(hint)
        if offset % width.size:
            raise TypeError(f"{record.__name__}.{name}: offset {offset} is not aligned")
        yield Field(name, offset, width, meaning)
        offset += width.size


def annotation_of(hint: Any) -> tuple[Width, str]:
    """Width and meaning out of `Annotated[int, width, meaning]`."""
    if not hasattr(hint, "__metadata__") or len(hint.__metadata__) != 2:
        raise TypeError(f"expected Annotated[int, width, meaning], got {hint!r}")
    width, meaning = hint.__metadata__
    return width, meaning
