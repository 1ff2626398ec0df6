"""The C interface as a program sees it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lepton_compile.codegen import generate
from lepton_compile.codegen.linking import compiler_command

HERE = Path(__file__).parent


def test_the_options_do_what_the_header_says(make_program, host, tmp_path: Path) -> None:
    library = generate(make_program(), host)
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{library.folder}"]
    linked = [HERE / "options.c", f"-L{library.folder}", "-ltoy", "-o", tmp_path / "options"]
    subprocess.run([*compiler_command(host.triple, host.zig_triple()), *flags, *linked], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.folder)}
    done = subprocess.run([tmp_path / "options"], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ok\n", "")
