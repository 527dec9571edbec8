"""The C header, the Python records and the documentation say the same."""

from __future__ import annotations

import enum
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reference import cheader
from reference.geometry import GEOMETRY
from reference.operations import OPERATION, Event, Flag, Kind
from reference.outcomes import OUTCOME, Seen, Status
from reference.schema import ABI_VERSION, Layout

COMPILER = shutil.which("gcc") or shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")

RECORDS: dict[str, Layout] = {
    "lw_operation": OPERATION,
    "lw_outcome": OUTCOME,
    "lw_geometry": GEOMETRY,
}
CONSTANTS: dict[str, type[enum.IntEnum] | type[enum.IntFlag]] = {
    "LW_": Kind,
    "LW_FLAG_": Flag,
    "LW_EVENT_": Event,
    "LW_STATUS_": Status,
    "LW_SEEN_": Seen,
}
DOCUMENT = Path(__file__).parent.parent / "docs" / "c-interface.md"


def expected() -> dict[str, int]:
    """What the C compiler should find: sizes, offsets and widths of fields, constants."""
    facts = {"LW_ABI_VERSION": ABI_VERSION}
    for name, layout in RECORDS.items():
        facts[f"sizeof({name})"] = layout.size
        for field in layout.fields:
            facts[f"offsetof({name}, {field.name})"] = field.offset
            facts[f"sizeof((({name} *)0)->{field.name})"] = field.width.size
    for prefix, values in CONSTANTS.items():
        facts |= {f"{prefix}{value.name}": int(value) for value in values}
    return facts


def print_facts(folder: Path, names: list[str]) -> str:
    lines = [f'    printf("%llu %s\\n", (unsigned long long)({name}), "{name}");' for name in names]
    source, program = folder / "facts.c", folder / "facts"
    source.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "lastwriter.h"\n'
        "int main(void)\n{\n" + "\n".join(lines) + "\n}\n"
    )
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{cheader.HEADER.parent}"]
    subprocess.run([str(COMPILER), *flags, str(source), "-o", str(program)], check=True)
    return subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout


def test_the_header_is_what_the_records_render_to() -> None:
    assert cheader.HEADER.read_text() == cheader.render()


@needs_compiler
def test_the_compiler_lays_records_out_as_python_does(tmp_path: Path) -> None:
    facts = expected()
    found = {}
    for line in print_facts(tmp_path, list(facts)).splitlines():
        value, name = line.split(" ", 1)
        found[name] = int(value)
    assert found == facts


def test_the_header_has_no_constants_that_python_lacks() -> None:
    values = re.findall(r"^    (LW_\w+) = (\d+),$", cheader.HEADER.read_text(), re.MULTILINE)
    facts = expected()
    assert {name: int(value) for name, value in values}.items() <= facts.items()
    assert len(values) == sum(map(len, CONSTANTS.values()))


@pytest.mark.parametrize("name", RECORDS)
def test_the_documentation_shows_the_records(name: str) -> None:
    assert f"```c\n{RECORDS[name].c_struct(name)}\n```" in DOCUMENT.read_text()


def test_the_documentation_shows_the_functions() -> None:
    header = cheader.HEADER.read_text()
    functions = re.findall(r"^(?:uint32_t|const char \*|void \*?)[^;{]*\);$", header, re.MULTILINE)
    assert len(functions) == 5
    document = DOCUMENT.read_text()
    assert [text for text in functions if f"```c\n{text}\n```" not in document] == []
