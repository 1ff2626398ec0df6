"""Targets are found by name: built-in ones, and those of plugins."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lepton_compile import TargetError, list_targets, resolve_target

BUILT_IN = {
    "x86-64-v2": ("x86_64", "sse4.2", 16, 16, False),
    "x86-64-v3": ("x86_64", "avx2", 32, 16, True),
    "x86-64-v4": ("x86_64", "avx512", 64, 32, True),
    "x86-64-v4-vnni": ("x86_64", "avx512", 64, 32, True),
    "cortex-a53": ("aarch64", "neon", 16, 32, True),
    "cortex-a72": ("aarch64", "neon", 16, 32, True),
    "cortex-a76": ("aarch64", "neon", 16, 32, True),
    "raspberry-pi-4": ("aarch64", "neon", 16, 32, True),
    "raspberry-pi-5": ("aarch64", "neon", 16, 32, True),
    "riscv64": ("riscv64", "scalar", 16, 32, True),
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make installed packages that register themselves as a vendor's would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def plugin(package: str, value: str, files: dict[str, str]) -> None:
        for name, text in {f"{package}/__init__.py": "raise SystemExit('no need to import it')", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        information = tmp_path / f"{package}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[lepton_compile.targets]\n{package} = {value}\n")

    yield plugin
    for module in [name for name in sys.modules if name.partition(".")[0] in ("acme", "other")]:
        del sys.modules[module]


def test_the_built_in_targets_are_these():
    assert [target.name for target in list_targets()] == ["host", *sorted(BUILT_IN)]
    assert all(target.description for target in list_targets())


@pytest.mark.parametrize("name", BUILT_IN)
def test_kernels_learn_what_they_are_made_of(name):
    target = resolve_target(name)
    assert target.name == name
    assert BUILT_IN[name] == (
        target.architecture,
        target.instruction_set,
        target.vector_bytes,
        target.vector_registers,
        target.has_fma,
    )


def test_products_of_short_numbers_are_an_extension():
    target = resolve_target("x86-64-v4-vnni")
    assert (target.has_dot_products, target.has_bfloat16_dot_products) == (True, False)
    both = resolve_target({"extends": "x86-64-v4-vnni", "cpu": {"features": ["+avx512bf16"]}})
    assert (both.has_dot_products, both.has_bfloat16_dot_products) == (True, True)


def test_a_board_is_what_its_vendor_says():
    board = resolve_target("raspberry-pi-4")
    resources = board.resources
    assert (board.cpu, resources.cores, resources.frequency_hz) == ("cortex-a72", 4, 1_500_000_000)
    assert (resources.memory_bytes, resources.bandwidth_bytes_per_s) == (4 * 10**9, 4_800_000_000)
    assert board.policy.precision == ("int8", "float32")
    assert resolve_target("raspberry-pi-5").resources.l3_bytes == 2 * 2**20


def test_an_unknown_name_comes_with_the_nearest():
    with pytest.raises(TargetError, match="did you mean raspberry-pi-4") as caught:
        resolve_target("rasberry-pi4")
    assert caught.value.nearest[0] == "raspberry-pi-4"
    with pytest.raises(TargetError, match=r"there are cortex-a53, .*host.*\.toml"):
        resolve_target("zzz")


def test_a_plugin_brings_targets(install):
    board = 'extends = "raspberry-pi-4"\n[memory]\nsize = "1 GB"'
    install("acme", "acme", {"acme/acme-one.toml": board, "acme/acme-two.toml": 'extends = "acme-one"'})
    assert resolve_target("acme-one").resources.memory_bytes == 10**9
    assert resolve_target("acme-two").resources.memory_bytes == 10**9
    assert {"acme-one", "acme-two"} < {target.name for target in list_targets()}


def test_a_plugin_may_keep_them_in_a_folder_inside_or_beside_a_module(install):
    files = {"acme/__init__.py": "", "acme/boards/a.toml": 'extends = "x86-64-v2"'}
    install("acme", "acme.boards", files)
    install("other", "other.module", {"other/__init__.py": "", "other/module.py": "", "other/b.toml": 'extends = "a"'})
    assert resolve_target("a").cpu == resolve_target("b").cpu == "x86-64-v2"


def test_two_targets_of_one_name_are_never_mixed_up(install):
    install("acme", "acme", {"acme/x86-64-v3.toml": 'extends = "x86-64-v2"'})
    with pytest.raises(TargetError, match="more than one target 'x86-64-v3'") as caught:
        resolve_target("x86-64-v3")
    assert len(caught.value.files) == 2
    assert resolve_target(caught.value.files[1]).cpu == "x86-64-v2"


def test_a_plugins_processors_are_checked_when_they_are_resolved(install):
    install("acme", "acme", {"acme/board.toml": 'extends = "cortex-a72"\n[cpu]\nname = "cortex-a00"'})
    with pytest.raises(TargetError, match=r"board\.toml: cpu: .*cortex-a00"):
        resolve_target("board")


def test_a_plugin_that_is_broken_says_so(install):
    install("acme", "acme.nowhere.at_all", {"acme/__init__.py": "raise RuntimeError('no licence')"})
    with pytest.raises(TargetError, match=r"acme\.nowhere\.at_all.*no licence"):
        resolve_target("x86-64-v3")
    with pytest.raises(TargetError, match="uninstall"):
        list_targets()


def test_finding_built_in_targets_takes_no_tvm():
    program = """
import sys
import lepton_compile
from lepton_compile.target import score
for target in lepton_compile.list_targets():
    if target.architecture == "x86_64":
        target.instruction_set, target.host_obstacle()
    assert not target.takes_llvm()
    target.tvm(), target.to_toml(), score(target)
    if target.name != "host":
        assert lepton_compile.resolve_target(target.name) == target
sys.exit("tvm" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
