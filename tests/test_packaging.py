"""What is built from this tree: a wheel with all that it needs, with and without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from adapters.linux import NAMES

ROOT = Path(__file__).parents[1]
TREE = ("reference", "adapters", "conformance", "setup.py", "pyproject.toml", "MANIFEST.in",
        "README.md", "LICENSE")  # fmt: skip
AGENTS = {f"adapters/linux/{name}_agent" for name in NAMES}
NEEDED = {
    "adapters/agent/agent.c",
    "adapters/examples/drivers/sharing.c",
    "adapters/examples/drivers/template.c",
    "adapters/examples/drivers/template.py",
    "adapters/examples/memory.h",
    "adapters/examples/mirror.c",
    "adapters/examples/template.c",
    "adapters/examples/tiny.py",
    "adapters/include/lastwriter.h",
    "adapters/linux/process.h",
    "adapters/py.typed",
    "conformance/py.typed",
    "reference/py.typed",
    "reference/rules.toml",
}
SECONDS = 300


def copy_tree(folder: Path) -> Path:
    """The sources without what earlier builds have left."""
    left = shutil.ignore_patterns("__pycache__", "*_agent", "*.so", "*.o")
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=left)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(tree: Path, target: Path, **environment: str) -> str:
    """Build a wheel of a tree; what pip says."""
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(target), str(tree)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def names_in(folder: Path) -> set[str]:
    (wheel,) = folder.glob("lastwriter-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel was built into, once for all tests."""
    target = tmp_path_factory.mktemp("wheel")
    build(copy_tree(tmp_path_factory.mktemp("tree")), target)
    return target


def python_files() -> set[str]:
    """Every module of ours, as it is called in a wheel."""
    packages = ("reference", "adapters", "conformance")
    return {
        str(path.relative_to(ROOT)) for name in packages for path in (ROOT / name).rglob("*.py")
    }


def test_the_wheel_has_every_module_and_what_they_read(wheel: Path) -> None:
    names = names_in(wheel)
    assert python_files() | NEEDED | AGENTS <= names


def test_the_wheel_has_nothing_else(wheel: Path) -> None:
    ours = [name for name in names_in(wheel) if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in ours} == {"reference", "adapters", "conformance"}
    assert {Path(name).suffix for name in ours} == {
        ".py",
        ".c",
        ".h",
        ".toml",
        ".typed",
        ".config",
        "",
    }
    assert {name for name in ours if not Path(name).suffix} == AGENTS


def test_an_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    (file,) = wheel.glob("*.whl")
    python = virtual_environment(tmp_path / "venv")
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    install = [*pip, "install", "--no-index", "--no-deps"]
    # --ignore-installed: the requirements lie beside what the tests themselves run on
    subprocess.run(
        [*install, "--ignore-installed", str(file)],
        check=True,
        capture_output=True,
        timeout=SECONDS,
    )
    done = run_installed(python.with_name("lastwriter"), "candidates", folder=tmp_path)
    assert "reference:faulting" in done.stdout
    assert "was not built" not in done.stdout
    code = "import adapters; print(adapters.__file__)"
    where = run_installed(python, "-c", code, folder=tmp_path).stdout
    assert where.startswith(str(tmp_path))


def virtual_environment(folder: Path) -> Path:
    """A virtual environment that finds the installed requirements of this one; its Python."""
    venv.create(folder)
    (packages,) = folder.glob("lib/python3*/site-packages")
    # Only what is a path is taken from here, so that ours can come from the wheel alone.
    paths = [path for path in sys.path if path.endswith("-packages")]
    (packages / "requirements.pth").write_text("\n".join(paths) + "\n", "utf-8")
    return folder / "bin" / "python"


def run_installed(program: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "COLUMNS"}}
    return subprocess.run(
        [program, *arguments],
        cwd=folder,
        env={**outside, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )


def test_without_a_compiler_the_rest_is_built(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    said = build(copy_tree(tmp_path / "tree"), tmp_path / "wheel", CC="/bin/false")
    names = names_in(tmp_path / "wheel")
    assert python_files() | NEEDED <= names
    assert not AGENTS & names
    for name in NAMES:
        assert f"linux:{name} is left out" in said


def test_a_source_distribution_has_what_a_build_needs(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path)
    command = [sys.executable, "-c", "import setuptools.build_meta as b; b.build_sdist('dist')"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=SECONDS)
    (archive,) = (tree / "dist").glob("lastwriter-*.tar.gz")
    with tarfile.open(archive) as contents:
        names = {name.partition("/")[2] for name in contents.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "adapters").rglob("*.[ch]")}
    assert python_files() | NEEDED | sources | {"setup.py", "LICENSE", "README.md"} <= names


def compiled(tree: Path, *arguments: str, mypyc: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py of a tree as for a compiled model, with this in place of mypyc's build."""
    stub = tree / "stub" / "mypyc"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "build.py").write_text(mypyc, "utf-8")
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=tree,
        env={**os.environ, "LASTWRITER_COMPILE": "1", "PYTHONPATH": str(stub.parent)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_a_compiled_model_needs_mypy(tmp_path: Path) -> None:
    done = compiled(copy_tree(tmp_path), "--name", mypyc="raise ImportError")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "needs mypy" in line
    assert "pip install mypy" in line
    assert "LASTWRITER_COMPILE=1 pip install --no-build-isolation ." in line


def test_no_compiled_model_lies_beside_its_source(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path)
    stub = "def mypycify(*_, **__): return []"
    done = compiled(tree, "-q", "build_ext", "--inplace", mypyc=stub)
    assert done.returncode == 1
    assert "error: LASTWRITER_COMPILE=1 is not for builds in place" in done.stderr
    assert not list(tree.rglob("*_agent"))
