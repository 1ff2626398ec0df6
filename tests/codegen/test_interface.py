"""The C interface as a program sees it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_compile.codegen import generate
from lepton_compile.errors import TargetError
from lepton_compile.runtime.loader import CompiledModel

HERE = Path(__file__).parent


def test_the_options_do_what_the_header_says(make_program, host, tmp_path: Path) -> None:
    library = generate(make_program(), host)
    compiler = [shutil.which("cc")] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc"]
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{library.folder}"]
    command = [
        *compiler,
        *flags,
        str(HERE / "options.c"),
        f"-L{library.folder}",
        "-ltoy",
        "-o",
        str(tmp_path / "options"),
    ]
    subprocess.run(command, check=True)  # type: ignore[arg-type]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.folder)}
    done = subprocess.run([tmp_path / "options"], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ok\n", "")


@pytest.mark.skipif("x86_64" not in os.uname().machine, reason="x86 features")
def test_a_processor_without_the_instructions_is_told_so(make_program, make_target) -> None:
    """amx-tile and avx512fp16 are rare enough; where a machine has both there is nothing to see."""
    flags = Path("/proc/cpuinfo").read_text()
    lacking = [name for name, flag in (("amx-tile", "amx_tile"), ("avx512fp16", "avx512_fp16")) if flag not in flags]
    if not lacking:
        pytest.skip("this processor has everything")
    library = generate(make_program(), make_target(features=(f"+{lacking[0]}",)))
    with pytest.raises(TargetError, match=f"this processor lacks {lacking[0]}"):
        CompiledModel(library.folder, keep=library).run({"images:0": [[0.0] * 48] * 8})


@pytest.mark.skipif("x86_64" not in os.uname().machine, reason="x86 features")
def test_the_processor_is_read_as_the_kernel_reads_it(tmp_path: Path) -> None:
    """Every feature of the table, asked of the runtime and looked up in /proc/cpuinfo."""
    runtime = HERE.parent.parent / "lepton_compile" / "runtime"
    linux = {
        "sse4.2": "sse4_2", "avx": "avx", "fma": "fma", "f16c": "f16c", "avx2": "avx2", "bmi2": "bmi2",
        "avx512f": "avx512f", "avx512dq": "avx512dq", "avx512ifma": "avx512ifma", "avx512cd": "avx512cd",
        "avx512bw": "avx512bw", "avx512vl": "avx512vl", "avx512vbmi": "avx512vbmi", "avx512vbmi2": "avx512_vbmi2",
        "avx512vnni": "avx512_vnni", "avx512bitalg": "avx512_bitalg", "avx512vpopcntdq": "avx512_vpopcntdq",
        "amx-bf16": "amx_bf16", "avx512fp16": "avx512_fp16", "amx-tile": "amx_tile", "amx-int8": "amx_int8",
        "avxvnni": "avx_vnni", "avx512bf16": "avx512_bf16",
    }  # fmt: skip
    asked = "".join(
        f'  {{const char *f[] = {{"{name}", NULL}}; puts(lepton_cpu_lacks(f) ? "0" : "1");}}\n' for name in linux
    )
    source = f'#include <stdio.h>\n#include "lepton_cpu.h"\nint main(void) {{\n{asked}return 0; }}\n'
    (tmp_path / "cpu.c").write_text(source)
    compiler = [shutil.which("cc")] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc"]
    program = str(tmp_path / "cpu")
    subprocess.run([*compiler, f"-I{runtime}", str(tmp_path / "cpu.c"), "-o", program], check=True)  # type: ignore[arg-type]
    answers = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    present = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    for name, answer in zip(linux, answers, strict=True):
        assert (answer == "1") == (linux[name] in present), name
