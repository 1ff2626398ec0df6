"""From objects, C and assembler to a shared library, with the system's compiler or with zig's.

zig comes from the package index and brings a C library for every target, so that nothing need be installed; the
system's compiler, where there is one and the target is this machine, starts faster.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from lepton_compile.errors import BuildError

RUNTIME_FOLDER = Path(__file__).parent.parent / "runtime"

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")

# Addresses in a library are congruent to positions in its file modulo this, so that the system can map the weights by
# pages of this size where its cache holds the file in such: page faults then take a tenth of the time.
HUGE_PAGE = 2 << 20

# Seconds of linking after which zig is taken to be building its C library, which it does once per target.
_FIRST_TIME = 4.0


def host_architecture() -> str:
    """The architecture of this machine as a target triple names it."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


@functools.cache
def _system_compiler(path: str) -> str | None:
    """The first of cc, gcc and clang on the search path that links a shared library (headers may be missing)."""
    for name in ("cc", "gcc", "clang"):
        compiler = shutil.which(name, path=path)
        if compiler is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "probe.c").write_text("#include <pthread.h>\nint probe(void) { return 0; }\n")
            command = [compiler, "-shared", "-fPIC", "probe.c", "-o", "probe.so", "-lm", "-lpthread"]
            if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0:
                return compiler
    return None


def compiler_command(triple: str, zig_triple: str) -> list[str]:
    """The C compiler for a target: the system's where it can, else zig's.

    Args:
        triple: The target's triple, like "x86_64-linux-gnu".
        zig_triple: The same in zig's spelling, which may name a C library version.
    """
    if triple.split("-")[0] == host_architecture() and "linux" in triple and sys.platform == "linux":
        system = _system_compiler(os.environ.get("PATH", ""))
        if system is not None:
            return [system]
    return zig_command(zig_triple)


def zig_command(zig_triple: str) -> list[str]:
    """Zig's C compiler for a target."""
    return [sys.executable, "-m", "ziglang", "cc", "-target", zig_triple]


def _environment() -> dict[str, str]:
    """The environment for a compiler: zig needs a cache that it may write to."""
    environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    # The interpreter that runs `-m ziglang` must find it even where the caller arranged its path by hand.
    environment["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
    if "ZIG_GLOBAL_CACHE_DIR" not in environment and not _writable(Path.home() / ".cache" / "zig"):
        own = Path(platformdirs.user_cache_dir("lepton_compile")) / "zig"
        if not _writable(own):
            own = Path(tempfile.gettempdir()) / f"lepton_compile-zig-{os.getuid()}"
        own.mkdir(parents=True, exist_ok=True)
        environment["ZIG_GLOBAL_CACHE_DIR"] = str(own)
    return environment


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@dataclass(frozen=True)
class Toolchain:
    """A C compiler for one target, working inside one folder so that no path gets into the bytes.

    Attributes:
        folder: Where sources lie and results go; all names are relative to it.
        triple: The target's triple, like "x86_64-linux-gnu".
        zig_triple: The same in zig's spelling, which may name a C library version.
        portable: Whether the library is for other machines than this one. It is then built with zig even where the
            system has a compiler, which would tie it to a C library as new as this system's.
        progress: Called with a line when zig sets itself up for the target.
    """

    folder: Path
    triple: str
    zig_triple: str
    portable: bool = False
    progress: Callable[[str], None] | None = None

    def compile(self, source: str, result: str) -> None:
        """Compile one C or assembler source to an object.

        Raises:
            BuildError: When the compiler fails.
        """
        runtime = self.folder / "runtime"
        if not runtime.exists():
            shutil.copytree(RUNTIME_FOLDER, runtime, ignore=shutil.ignore_patterns("*.py", "*.pyc", "__pycache__"))
        # Functions in sections of their own, so that the linker drops those of the runtime that nobody calls. The
        # driver computes nothing, so it may be small, and nothing unwinds its stack.
        flags = ["-std=c11", "-Os", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections"]
        flags += ["-fno-asynchronous-unwind-tables", *WARNINGS, "-Iruntime"]
        self._run([*self._compiler(), *flags, "-c", source, "-o", result], f"compiling {source}")

    def link(self, objects: Sequence[str], library: str, exports: Sequence[str]) -> None:
        """Link a shared library that shows the symbols `exports` and no others.

        Raises:
            BuildError: When the linker fails.
        """
        names = " ".join(f"{name};" for name in exports)
        (self.folder / "exports.map").write_text(f"{{ global: {names} local: *; }};\n")
        flags = ["-shared", "-s", f"-Wl,-soname,{library}", "-Wl,--version-script=exports.map", "-Wl,--gc-sections"]
        flags += ["-Wl,-Bsymbolic", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,--as-needed"]
        flags.append(f"-Wl,-z,max-page-size={HUGE_PAGE}")
        compiler = self._compiler()
        if compiler[0] == sys.executable:
            flags.append("-Wl,-z,relro")
        else:
            # GNU's linker would fill the file up to huge pages between segments, and around data that get read-only.
            flags += ["-static-libgcc", "-Wl,-z,norelro", "-Wl,-z,noseparate-code"]
        self._run([*compiler, *flags, *objects, "-o", library, "-lm", "-lpthread"], f"linking {library}")

    def archive(self, objects: Sequence[str], library: str) -> None:
        """Collect objects into a static library, without dates or owners.

        Raises:
            BuildError: When the archiver fails.
        """
        self._run([sys.executable, "-m", "ziglang", "ar", "rcsD", library, *objects], f"collecting {library}")

    def _compiler(self) -> list[str]:
        return zig_command(self.zig_triple) if self.portable else compiler_command(self.triple, self.zig_triple)

    def _run(self, command: list[str], doing: str) -> None:
        notice = None
        if self.progress is not None and command[0] == sys.executable:
            line = f"setting up zig for {self.zig_triple}: it builds the C library once per target, in half a minute"
            notice = threading.Timer(_FIRST_TIME, self.progress, [line])
            notice.daemon = True
            notice.start()
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=_environment(),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise BuildError(f"{doing} for {self.triple} failed: {error}", command=command) from error
        finally:
            if notice is not None:
                notice.cancel()
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
            reason = (lines or done.stderr.splitlines() or ["no message"])[0]
            raise BuildError(
                f"{doing} for {self.triple} failed: {reason}", command=command, output=done.stderr, reason=reason
            )
