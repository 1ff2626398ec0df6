"""What is installed, and what importing it needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lepton_compile

ROOT = Path(__file__).parents[1]
SOURCES = ("lepton_compile", "passes", "targets")

# Fails on anything but the standard library, numpy and lepton_compile: on a device there is nothing else.
ALLOW_NUMPY_ALONE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "lepton_compile"}:
            raise ImportError(f"{name} is not there on a device")
sys.meta_path.insert(0, Block())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, str(source)], check=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_source_file(wheel: zipfile.ZipFile) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for name in SOURCES
        for path in (ROOT / name).rglob("*")
        if path.suffix in {".py", ".c", ".h", ".toml", ".typed"}
    }
    expected = {path if path.startswith("lepton_compile/") else f"lepton_compile/{path}" for path in expected}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


def test_the_wheel_holds_passes_targets_and_the_runtime(wheel: zipfile.ZipFile) -> None:
    for folder, suffix in (("passes", ".py"), ("targets", ".toml"), ("runtime", ".h")):
        assert any(n.startswith(f"lepton_compile/{folder}/") and n.endswith(suffix) for n in wheel.namelist()), folder


def test_the_wheel_installs_no_other_top_level_module(wheel: zipfile.ZipFile) -> None:
    assert {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == {"lepton_compile"}


def test_the_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_loading_needs_numpy_alone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = ALLOW_NUMPY_ALONE + "import lepton_compile; print(lepton_compile.__file__); lepton_compile.load"
    result = run_python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(tmp_path)


def test_a_device_is_described_with_numpy_alone() -> None:
    code = """
from lepton_compile.target import measure_host, resolve_target, score
host = measure_host()
assert resolve_target(host.describe()) == host
print(host.takes_llvm() or 0 <= score(host).value <= 1)
"""
    result = run_python(ALLOW_NUMPY_ALONE + code, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "True"


def test_compiling_needs_more_than_numpy() -> None:
    """Shows that the block of the test above blocks."""
    result = run_python(ALLOW_NUMPY_ALONE + "import lepton_compile; lepton_compile.compile", cwd=ROOT)
    assert result.returncode != 0
    assert "is not there on a device" in result.stderr


@pytest.mark.parametrize("name", lepton_compile.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(lepton_compile, name).__module__.startswith("lepton_compile")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compyle'"):
        lepton_compile.compyle  # noqa: B018


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
