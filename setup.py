"""Build what is compiled; everything else is in pyproject.toml.

That is the executables that hold the real Linux mirrors and, where the environment variable
LASTWRITER_COMPILE is 1, what the suite does for every operation: it is drawn, and judged.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, OptionError, PlatformError

COMPILE = os.environ.get("LASTWRITER_COMPILE") == "1"
if COMPILE:
    try:
        from mypyc.build import mypycify
    except ImportError:
        sys.exit(
            "LASTWRITER_COMPILE=1 needs mypy in the environment that builds: pip install mypy "
            "'setuptools>=77' && LASTWRITER_COMPILE=1 pip install --no-build-isolation ."
        )

BUILD = Path("build/compiled")
"""Apart from other builds, which take along all that they find in their folder."""

LINUX = Path("adapters/linux")
COMMON = ["adapters/agent/agent.c"]
INCLUDE = ["adapters/include", str(LINUX)]


class Executable(Extension):
    """The portable agent with a mirror linked in."""


class BuildCompiled(build_ext):
    """Builds extension modules as ever, and executables as what they are."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.compiled: dict[str, str] = {}
        """By source the object file: what executables share is compiled once."""

    def run(self) -> None:
        if COMPILE and (self.inplace or self.editable_mode):
            raise OptionError(
                "LASTWRITER_COMPILE=1 is not for builds in place: what was compiled "
                "would be imported instead of its source, however that changes"
            )
        super().run()

    def get_ext_filename(self, fullname: str) -> str:
        if isinstance(self.ext_map.get(fullname), Executable):
            return str(Path(*fullname.split(".")))
        return super().get_ext_filename(fullname)

    def build_extension(self, ext: Extension) -> None:
        if not isinstance(ext, Executable):
            super().build_extension(ext)
            return
        try:
            self._build(ext)
        except (CCompilerError, ExecError, PlatformError) as error:
            name = ext.name.rpartition(".")[2].removesuffix("_agent")
            # An optional extension that fails so is a warning, and the build goes on.
            raise CompileError(f"linux:{name} is left out: {error}") from error

    def _build(self, ext: Executable) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        self.mkpath(str(target.parent))
        self.compiler.link_executable(
            [self._object_of(source, ext) for source in ext.sources],
            target.name,
            output_dir=str(target.parent),
            libraries=ext.libraries,
        )

    def _object_of(self, source: str, ext: Executable) -> str:
        if source not in self.compiled:
            (self.compiled[source],) = self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=INCLUDE,
                extra_postargs=["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra"],
                depends=ext.depends,
            )
        return self.compiled[source]


MIRRORS = (
    ("process_vm", "outside"),
    ("io_uring", "ring", "ring_keys", "ring_probe"),
    ("kvm", "kvm_guest"),
    ("vmsplice",),
    ("proc_mem", "outside"),
    ("userfaultfd", "svm", "svm_events"),
    ("userfaultfd_copy", "svm", "svm_events"),
)
"""Those of Linux: the name of each, and its C files besides NAME.c and what all of them share."""


GENERATION = ("build", "choose", "closing", "fresh", "made", "sketch", "spans")
"""The modules of `conformance.generate` in which most of its time goes."""


def mirror(name: str, *more: str) -> Executable:
    """The executable of `linux:NAME`: what all of them share, and the device of this one."""
    shared = sorted(str(path) for path in LINUX.glob("process*.c") if path.stem != "process_vm")
    return Executable(
        f"adapters.linux.{name}_agent",
        sources=[*COMMON, *shared, *(str(LINUX / f"{each}.c") for each in (name, *more))],
        libraries=["pthread"],  # for a C library that has it apart
        depends=["adapters/include/lastwriter.h", *map(str, LINUX.glob("*.h"))],
        optional=True,  # everything else works without, and says how to get them
    )


def suite() -> list[Extension]:
    """What the suite does for every operation as extension modules: its source as it is."""
    sources = [
        *sorted(map(str, Path("reference/model").glob("*.py"))),
        *(f"conformance/generate/{each}.py" for each in GENERATION),
        "reference/validity.py",
    ]
    # What other modules import need not be installed here.
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    return mypycify(
        [*options, *sources], group_name="lastwriter_suite", target_dir=str(BUILD / "source")
    )


setup(
    ext_modules=[
        *(mirror(*each) for each in MIRRORS if sys.platform == "linux"),
        *(suite() if COMPILE else []),
    ],
    cmdclass={"build_ext": BuildCompiled},
    options={"build": {"build_base": str(BUILD)}} if COMPILE else {},
)
