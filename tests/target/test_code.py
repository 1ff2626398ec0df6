"""What LLVM makes of the built-in targets: their vectors, their multiply-adds, and no complaint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_compile import list_targets, resolve_target
from lepton_compile.codegen.cpu_features import ARM
from lepton_compile.target import Resources, Target
from lepton_compile.target.llvm import enabled_features, tvm_target
from lepton_compile.target.processors import ARM_CORES, ARM_EXTRAS, X86_EXTRAS, X86_LEVELS, known_features

pytest.importorskip("tvm")

NAMES = [target.name for target in list_targets()]
EXPECTED = {
    "avx512": (r"vfmadd\d+ps\s.*%zmm", r"%ymm"),
    "avx2": (r"vfmadd\d+ps\s.*%ymm", r"%zmm"),
    "sse4.2": (r"\smulps\s.*%xmm", r"%ymm|vfmadd"),
    "neon": (r"fmla\s+v\d+\.4s", r"\sfmadd\s"),
    "scalar": (r"fmadd\.s", r"vfmacc"),
}
"""Per instruction set, what is in the loop and what is not."""


def compile_all(wanted: dict[str, tuple[dict[str, object], int]]) -> dict[str, str]:
    script = Path(__file__).with_name("multiply_add.py")
    done = subprocess.run([sys.executable, script], input=json.dumps(wanted), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "LLVM does not know a processor or a feature"
    # From the function's label to the end of it: TVM appends conversions of half precision in scalar code.
    texts: dict[str, str] = json.loads(done.stdout)
    return {name: re.split(r"^f:|\.Lfunc_end0", text, flags=re.MULTILINE)[1] for name, text in texts.items()}


@pytest.fixture(scope="module")
def assembly() -> dict[str, str]:
    vectors = {target.name: (target.tvm(), target.vector_bytes // 4) for target in list_targets()}
    loops = {f"{target.name} by LLVM": (target.tvm(), 1) for target in list_targets()}
    return compile_all({**vectors, **loops})


@pytest.mark.parametrize("name", NAMES)
def test_vectors_and_multiply_adds_are_those_that_the_target_says(assembly, name):
    present, absent = EXPECTED[resolve_target(name).instruction_set]
    assert re.search(present, assembly[name])
    assert not re.search(absent, assembly[name])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "riscv64"])
def test_llvm_vectorises_as_wide_as_the_target_says(assembly, name):
    assert re.search(EXPECTED[resolve_target(name).instruction_set][0], assembly[f"{name} by LLVM"])


def test_narrower_vectors_can_be_asked_for():
    target = resolve_target({"extends": "x86-64-v4", "cpu": {"features": ["+prefer-256-bit"]}})
    assert (target.vector_bytes, target.vector_registers) == (32, 32)
    assert "zmm" not in compile_all({"narrow": (target.tvm(), 1)})["narrow"]


@pytest.mark.parametrize("name", NAMES)
def test_llvm_knows_the_processor_and_the_features(name):
    target = resolve_target(name)
    enabled = enabled_features(target.triple, target.cpu, target.features)
    assert target.enabled_features() <= enabled
    for feature in target.features:
        assert (feature[1:] in enabled) == (feature[0] == "+")


def test_levels_are_llvms():
    every = X86_LEVELS["x86-64-v4"] | X86_EXTRAS.keys()
    for level, features in X86_LEVELS.items():
        assert features == enabled_features("x86_64-linux-gnu", level, ()) & every


def test_extensions_are_what_llvm_makes_of_them_on_top_of_their_level():
    for level in X86_LEVELS:
        extras = tuple(
            f"+{extra}" for extra, lowest in sorted(X86_EXTRAS.items()) if X86_LEVELS[lowest] <= X86_LEVELS[level]
        )
        known = known_features("x86_64", level, extras)
        assert known is not None
        every = X86_LEVELS["x86-64-v4"] | X86_EXTRAS.keys()
        assert known == enabled_features("x86_64-linux-gnu", level, extras) & every


def test_what_a_level_does_not_say_is_asked_of_llvm():
    assert known_features("x86_64", "x86-64-v2", ("+avx512vnni",)) is None
    target = Target("odd", "x86_64-linux-gnu", "x86-64-v2", Resources(1, 1), features=("+avx512f",))
    assert (target.instruction_set, target.has_fma) == ("avx2", True)
    assert Target("zen", "x86_64-linux-gnu", "znver4", Resources(1, 1)).instruction_set == "avx512"
    assert Target("knl", "x86_64-linux-gnu", "core2", Resources(1, 1)).instruction_set == "scalar"


def test_sensed_features_of_arm_are_llvms():
    features = tuple(f"+{name}" for name in ARM_EXTRAS)
    assert set(ARM_EXTRAS) <= enabled_features("aarch64-linux-gnu", "generic", features)


@pytest.mark.parametrize("cpu", ARM_CORES)
def test_features_of_arm_cores_are_llvms(cpu):
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    # What libraries ask their processor for, too, since its absence has to be known as well.
    every = {"neon", *ARM_EXTRAS, *ARM}
    for features in [(), *((f"{sign}{extra}",) for sign in "+-" for extra in ARM_EXTRAS)]:
        described = TvmTarget(tvm_target("aarch64-linux-gnu", cpu, features))
        enabled = {str(feature) for feature in codegen.llvm_get_cpu_features(described)}
        assert known_features("aarch64", cpu, features) == enabled & every, features


def test_what_an_extension_of_arm_takes_along_is_asked_of_llvm():
    assert known_features("aarch64", "generic", ("+fp16fml", "-fullfp16")) is None
    assert known_features("aarch64", "cortex-a72", ("+sve",)) is None
    assert known_features("aarch64", "cortex-a55", ()) is None


def test_the_compiler_of_the_driver_is_told_an_old_c_library():
    assert resolve_target("x86-64-v4").zig_triple() == "x86_64-linux-gnu.2.17"
    assert resolve_target("raspberry-pi-4").zig_triple() == "aarch64-linux-gnu.2.17"
    assert resolve_target("riscv64").zig_triple() == "riscv64-linux-gnu.2.27"
    musl = resolve_target({"extends": "raspberry-pi-4", "triple": "aarch64-linux-musl"})
    assert musl.zig_triple() == "aarch64-linux-musl"
