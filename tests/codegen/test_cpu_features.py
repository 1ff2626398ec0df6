"""A library asks the processor for what it was compiled for, and says what is lacking."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_compile.codegen import cpu_features, generate
from lepton_compile.codegen.cpu_features import ARM, RISCV, X86, cpu_checks
from lepton_compile.codegen.linking import compiler_command, host_architecture
from lepton_compile.errors import TargetError
from lepton_compile.runtime.loader import CompiledModel
from lepton_compile.target import resolve_target
from lepton_compile.target.host import sensible_features
from lepton_compile.target.processors import X86_LEVELS, x86_features

RUNTIME = Path(__file__).parent.parent.parent / "lepton_compile" / "runtime"
X86_ONLY = pytest.mark.skipif(host_architecture() != "x86_64", reason="x86-64 features")


def names(target: object) -> set[str]:
    return {row.split('"')[1] for row in cpu_checks(target)}  # type: ignore[arg-type]


def asking_program(rows: tuple[str, ...], compiler: list[str], folder: Path) -> Path:
    """A program that prints 1 or 0 for each row of the table."""
    source = '#include "lepton_cpu.h"\n#include <stdio.h>\nint main(void) {\n'
    source += f"  static const struct lepton_cpu_feature rows[] = {{{', '.join(rows)}}};\n"
    source += (
        '  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) puts(lepton_cpu_lacks(rows + i, 1) ? "0" : "1");\n'
    )
    (folder / "ask.c").write_text(source + "  return 0;\n}\n")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", f"-I{RUNTIME}"]
    subprocess.run([*compiler, *flags, folder / "ask.c", "-o", folder / "ask"], check=True)
    return folder / "ask"


def answers(command: list[object]) -> list[bool]:
    return [line == "1" for line in subprocess.check_output(command, text=True).split()]  # type: ignore[call-overload]


def test_levels_of_x86_64_ask_for_all_that_they_add() -> None:
    v2, v3, v4 = (names(resolve_target(f"x86-64-v{level}")) for level in (2, 3, 4))
    assert v2 == {"popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"}
    assert v3 == v2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"}
    assert v4 == v3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}


@pytest.mark.parametrize(
    ("cpu", "some"),
    [
        ("znver4", {"avx512bf16", "avx512vnni", "gfni", "sse4a"}),
        ("skylake-avx512", {"avx512vl", "fma"}),
        ("bdver4", {"xop"}),
    ],
)
def test_what_a_named_processor_implies_is_asked_for(cpu: str, some: set[str]) -> None:
    target = resolve_target({"triple": "x86_64-linux-gnu", "cpu": {"name": cpu, "cores": 4}})
    assert some <= names(target)
    assert names(target).isdisjoint({"aes", "sha", "rdseed", "64bit"})


def test_an_arm_target_asks_for_what_its_cores_have() -> None:
    assert cpu_checks(resolve_target("cortex-a76")) == (
        '{"neon", AT_HWCAP, 0x2}',
        '{"fullfp16", AT_HWCAP, 0x600}',
        '{"rdm", AT_HWCAP, 0x1000}',
        '{"dotprod", AT_HWCAP, 0x100000}',
    )
    assert names(resolve_target("cortex-a53")) == {"neon"}
    assert names(resolve_target("riscv64")) == set("acdfm")


def test_every_extension_that_is_sensed_can_be_asked_for() -> None:
    """But for those that no kernel uses: the baseline, and what serves cryptography, locks or the system."""
    unused = {"cx16", "sahf", "xsave", *X86_LEVELS["x86-64"]}
    assert sensible_features("x86_64") - unused <= set(X86)
    assert sensible_features("aarch64") - {"aes", "crc", "lse", "sha2"} <= set(ARM)
    assert sensible_features("riscv64") <= set(RISCV)


@X86_ONLY
def test_the_processor_is_read_as_linux_reads_it(tmp_path: Path, make_target) -> None:
    target = make_target(enabled=tuple(X86))
    program = asking_program(cpu_checks(target), compiler_command(target.triple, target.zig_triple()), tmp_path)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).partition(":")[2].split()
    present = x86_features(flags) | {*flags}
    assert dict(zip(X86, answers([program]), strict=True)) == {name: name in present for name in X86}


@X86_ONLY
def test_a_processor_without_the_instructions_is_told_so(make_program, make_target, monkeypatch) -> None:
    """Bit 16 of leaf 1's ECX is reserved: no processor sets it."""
    monkeypatch.setitem(cpu_features.X86, "telepathy", (1, 0, "ECX", 16, "NO"))
    library = generate(make_program(), make_target(enabled=("sse3", "telepathy")))
    with pytest.raises(TargetError, match="this processor lacks telepathy, which the library was compiled for"):
        CompiledModel(library.folder, keep=library).run({"images:0": [[0.0] * 48] * 8})


@X86_ONLY
def test_what_can_not_be_there_is_lacking(tmp_path: Path) -> None:
    """A reserved bit, a leaf that does not exist, and state that the system does not save (bit 31 of XCR0)."""
    rows = (
        '{"a", 1, 0, LEPTON_ECX, 16, 0}',
        '{"b", 0x7fffffff, 0, LEPTON_EAX, 0, 0}',
        '{"c", 1, 0, LEPTON_EDX, 26, 1u << 31}',
    )
    compiler = compiler_command("x86_64-linux-gnu", "x86_64-linux-gnu")
    assert answers([asking_program((*rows, '{"sse2", 1, 0, LEPTON_EDX, 26, 0}'), compiler, tmp_path)]) == [
        *(False, False, False),
        True,
    ]


@pytest.mark.parametrize(
    ("architecture", "cpu", "lacking"),
    [
        (
            "aarch64",
            "cortex-a53",
            {"fullfp16", "rdm", "complxnum", "dotprod", "sve", "fp16fml", "sve2", "i8mm", "bf16"},
        ),
        ("aarch64", "cortex-a76", {"complxnum", "sve", "fp16fml", "sve2", "i8mm", "bf16"}),
        ("aarch64", "max", set()),
        ("riscv64", "rv64,v=false", {"v"}),
    ],
)
def test_other_processors_are_read_under_an_emulator(
    tmp_path: Path, make_target, architecture: str, cpu: str, lacking: set[str]
) -> None:
    emulator = shutil.which(f"qemu-{architecture}-static") or shutil.which(f"qemu-{architecture}")
    if architecture == host_architecture() or emulator is None:
        pytest.skip("needs qemu-user and a foreign architecture")
    table = {"aarch64": ARM, "riscv64": RISCV}[architecture]
    rows = cpu_checks(make_target(f"{architecture}-linux-gnu", "", enabled=tuple(table)))
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-musl", "-static"]
    found = answers([emulator, "-cpu", cpu, asking_program(rows, compiler, tmp_path)])
    assert {name for name, has in zip(table, found, strict=True) if not has} == lacking
