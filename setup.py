"""Build the executables that hold the real Linux mirrors; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, PlatformError

LINUX = Path("adapters/linux")
COMMON = ["adapters/agent/agent.c"]


class BuildExecutable(build_ext):
    """Builds each "extension" as an executable: the portable agent with a mirror linked in."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")))

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext)
        except (CCompilerError, ExecError, PlatformError) as error:
            name = ext.name.rpartition(".")[2].removesuffix("_agent")
            # An optional extension that fails so is a warning, and the build goes on.
            raise CompileError(f"linux:{name} is left out: {error}") from error

    def _build(self, ext: Extension) -> None:
        objects = self.compiler.compile(
            ext.sources,
            output_dir=self.build_temp,
            include_dirs=ext.include_dirs,
            extra_postargs=["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra"],
            depends=ext.depends,
        )
        target = Path(self.get_ext_fullpath(ext.name))
        self.mkpath(str(target.parent))
        self.compiler.link_executable(
            objects, target.name, output_dir=str(target.parent), libraries=ext.libraries
        )


def mirror(name: str) -> Extension:
    """The executable of `linux:NAME`: what all of them share, and the device of this one."""
    shared = sorted(str(path) for path in LINUX.glob("process*.c") if path.stem != "process_vm")
    return Extension(
        f"adapters.linux.{name}_agent",
        sources=[*COMMON, *shared, str(LINUX / f"{name}.c")],
        include_dirs=["adapters/include", str(LINUX)],
        depends=["adapters/include/lastwriter.h", *map(str, LINUX.glob("*.h"))],
        optional=True,  # everything else works without, and says how to get them
    )


setup(
    ext_modules=[mirror("process_vm"), mirror("io_uring")] if sys.platform == "linux" else [],
    cmdclass={"build_ext": BuildExecutable},
)
