"""The C runtime: free of warnings and races, every block once, a hand-off of microseconds, the choice of variants."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUNTIME = HERE.parent.parent / "lepton_compile" / "runtime"
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", f"-I{RUNTIME}"]
COMPILERS = {
    "cc": [shutil.which("cc") or ""],
    "zig": [sys.executable, "-m", "ziglang", "cc"],
}


def build(name: str, source: str, folder: Path, *flags: str) -> Path:
    compiler = COMPILERS[name]
    if not compiler[0]:
        pytest.skip("no C compiler")
    program = folder / "program"
    subprocess.run([*compiler, *STRICT, *flags, str(HERE / source), "-o", str(program), "-lpthread"], check=True)
    return program


@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_block_is_computed_once(compiler: str, tmp_path: Path) -> None:
    subprocess.run([build(compiler, "pool_stress.c", tmp_path)], check=True, timeout=120)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_arenas(compiler: str, tmp_path: Path) -> None:
    subprocess.run([build(compiler, "arena.c", tmp_path)], check=True, timeout=60)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_variants(compiler: str, tmp_path: Path) -> None:
    subprocess.run([build(compiler, "variants.c", tmp_path)], cwd=tmp_path, check=True, timeout=120)


@pytest.mark.parametrize("source", ["pool_stress.c", "variants.c"])
def test_no_data_race_is_found(source: str, tmp_path: Path) -> None:
    """The thread sanitizer does not know forks, hence the plain build for those."""
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    compiler = COMPILERS["cc"]
    built = compiler[0] and subprocess.run(
        [*compiler, "-fsanitize=thread", str(probe), "-o", str(tmp_path / "probe")], capture_output=True, check=False
    )
    if not built or built.returncode != 0 or subprocess.run([tmp_path / "probe"], check=False).returncode != 0:
        pytest.skip("no thread sanitizer")
    program = build("cc", source, tmp_path, "-fsanitize=thread", "-g")
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert "data race" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_handing_a_job_to_threads_takes_microseconds(tmp_path: Path) -> None:
    """Generous, for busy machines: it takes about one microsecond on two free processors."""
    program = build("cc" if COMPILERS["cc"][0] else "zig", "handoff.c", tmp_path)
    done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 50_000
