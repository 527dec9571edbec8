"""Who may import whom, how long files may be, and that modules say what they offer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "reference": {"reference"},
    "adapters": {"reference", "adapters"},
    "conformance": {"reference", "adapters", "conformance"},
    "benchmarks": {"reference", "adapters", "conformance", "benchmarks"},
}
OURS = {*MAY_IMPORT, "tests"}
NOT_AT_RUN_TIME = {"setuptools", "distutils", "pkg_resources"}
LONGEST = 500
"""Lines of a file; what is longer does more than one thing."""

MODULES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
SOURCES = sorted(
    path
    for folder in OURS
    for suffix in ("py", "c", "h")
    for path in (ROOT / folder).rglob(f"*.{suffix}")
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_module = pytest.mark.parametrize("path", MODULES, ids=name_of)
every_source = pytest.mark.parametrize("path", SOURCES, ids=name_of)


def imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """Top-level packages that a module imports, anywhere in it."""
    folder = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(folder), f"line {node.lineno} leaves its package"
            yield folder[0]


def is_entry_point(tree: ast.Module) -> bool:
    """Whether it ends in `if __name__ == "__main__":`."""
    last = tree.body[-1] if tree.body else None
    return isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"


def public_names(tree: ast.Module) -> Iterator[str]:
    """What a module defines without an underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_") or name == "__all__")


@every_module
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    imported = set(imports(path, ast.parse(path.read_text("utf-8"))))
    assert imported & OURS <= MAY_IMPORT[package]
    assert not imported & NOT_AT_RUN_TIME


@every_module
def test_modules_say_what_they_offer(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    names = set(public_names(tree))
    assert "__all__" in names or not names or path.name.startswith("test_") or is_entry_point(tree)


@every_source
def test_files_are_short(path: Path) -> None:
    assert path.read_text("utf-8").count("\n") < LONGEST


def test_the_walk_finds_what_it_must() -> None:
    """Rules over no files would hold, too."""
    for needed in ("reference/model/judge.py", "adapters/worker.py", "conformance/command.py"):
        assert ROOT / needed in MODULES
    for needed in ("adapters/agent/agent.c", "adapters/include/lastwriter.h"):
        assert ROOT / needed in SOURCES


@pytest.mark.parametrize(
    ("line", "imported"),
    [
        ("import adapters.worker", "adapters"),
        ("from conformance import reduce", "conformance"),
        ("from ..model import judge", "reference"),
        ("def f():\n    import tests.generated", "tests"),
    ],
)
def test_imports_of_every_form_are_seen(line: str, imported: str) -> None:
    assert list(imports(ROOT / "reference" / "model" / "x.py", ast.parse(line))) == [imported]


def test_leaving_the_package_is_seen() -> None:
    with pytest.raises(AssertionError, match="leaves its package"):
        list(imports(ROOT / "reference" / "x.py", ast.parse("from ..adapters import worker")))
