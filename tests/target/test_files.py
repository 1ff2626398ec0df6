"""Target files: what they say is what the target has, they inherit, and what is wrong in one is named in one line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from lepton_compile import TargetError, resolve_target
from lepton_compile.target import Accelerator, Budget, Policy, Resources, Target

BOARD = """
extends = "cortex-a72"
description = "A board"

[cpu]
cores = 2
frequency = "1.8 GHz"
l2 = "512 KiB"
l3 = "0 B"

[memory]
size = "64 MB"
bandwidth = "1.6 GB/s"

[policy]
precision = ["int8"]
max_drop = 0.02

[budget]
latency = "5 ms"
memory = "32 MB"
size = "4 MiB"
"""


@pytest.fixture
def write(tmp_path):
    def file(text: str, name: str = "board.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return file


def test_a_file_is_what_it_says_and_what_it_extends(write):
    assert resolve_target(write(BOARD)) == Target(
        name="board",
        triple="aarch64-linux-gnu",
        cpu="cortex-a72",
        features=("-aes", "-sha2"),
        description="A board",
        kind="llvm",
        resources=Resources(
            cores=2,
            threads=2,
            l1d_bytes=32 * 1024,
            l2_bytes=512 * 1024,
            l3_bytes=0,
            frequency_hz=1_800_000_000,
            multiply_adds=1,
            memory_bytes=64_000_000,
            bandwidth_bytes_per_s=1_600_000_000,
        ),
        policy=Policy(precision=("int8",), max_drop=0.02),
        budget=Budget(latency_s=0.005, memory_bytes=32_000_000, size_bytes=4 * 2**20),
    )


def test_a_path_may_be_text_or_a_path(write):
    path = write(BOARD)
    assert resolve_target(path) == resolve_target(str(path))


def test_the_contents_of_a_file_do_as_well():
    assert resolve_target(tomllib.loads(BOARD)).resources.cores == 2


def test_a_target_is_itself():
    target = resolve_target("raspberry-pi-5")
    assert resolve_target(target) is target


def test_a_description_and_the_file_of_it_make_an_equal_target(write):
    target = resolve_target(write(BOARD))
    assert resolve_target(target.describe()) == target
    assert resolve_target(json.loads(json.dumps(target.describe()))) == target
    assert resolve_target(write(target.to_toml(), "other.toml")) == target


def test_text_of_any_kind_survives_the_file(write):
    target = resolve_target({"extends": "x86-64-v2", "description": 'a "quoted" \\ naïve 板 line'})
    assert resolve_target(write(target.to_toml())) == target


def test_a_file_extends_a_file_beside_it(write, monkeypatch, tmp_path):
    write('extends = "base/base.toml"\n[cpu]\ncores = 3')
    write('extends = "x86-64-v3"\n[memory]\nsize = "1 GB"', "base/base.toml")
    monkeypatch.chdir("/")
    target = resolve_target(tmp_path / "board.toml")
    assert (target.cpu, target.resources.cores, target.resources.memory_bytes) == ("x86-64-v3", 3, 10**9)


def test_names_and_descriptions_are_not_inherited(write):
    target = resolve_target(write('extends = "raspberry-pi-4"', "my board (2).toml"))
    assert (target.name, target.description) == ("my-board-2-", "")


def test_accelerators_are_tables_of_their_own(write):
    text = """
    extends = "raspberry-pi-5"
    [[accelerator]]
    name = "NVIDIA H200"
    memory = "140 GB"
    [[accelerator]]
    name = "brcm,2712-v3d"
    """
    target = resolve_target(write(text))
    assert target.resources.accelerators == (Accelerator("NVIDIA H200", 140 * 10**9), Accelerator("brcm,2712-v3d"))
    assert resolve_target(write(target.to_toml())) == target
    assert resolve_target(target.describe()) == target
    write('extends = "board.toml"\naccelerator = []', "without.toml")
    write('extends = "board.toml"\n[[accelerator]]\nname = "another"', "another.toml")
    assert resolve_target(write(text).with_name("without.toml")).resources.accelerators == ()
    assert resolve_target(write(text).with_name("another.toml")).resources.accelerators == (Accelerator("another"),)


def test_features_add_up_and_can_be_taken_back():
    target = resolve_target({"extends": "x86-64-v4-vnni", "cpu": {"features": ["+avx512bf16"]}})
    assert target.features == ("+avx512bf16", "+avx512vnni")
    target = resolve_target({"extends": "x86-64-v4-vnni", "cpu": {"features": ["-avx512vnni"]}})
    assert target.features == ("-avx512vnni",)
    assert "avx512vnni" not in target.enabled_features()


def test_features_of_one_processor_are_not_given_to_another():
    assert resolve_target({"extends": "cortex-a76", "cpu": {"name": "cortex-a55"}}).features == ()


def test_threads_follow_the_cores():
    host = {"extends": "x86-64-v2", "cpu": {"cores": 4, "threads": 8}}
    assert resolve_target(host).resources.threads == 8
    assert resolve_target({**host, "cpu": {"cores": 4}}).resources.threads == 4


def test_a_file_extends_this_machine():
    host = resolve_target("host")
    target = resolve_target({"extends": "host", "cpu": {"cores": 1}})
    assert (target.cpu, target.features) == (host.cpu, host.features)
    assert (target.resources.cores, target.resources.threads) == (1, 1)


@pytest.mark.parametrize(
    ("text", "field", "parts"),
    [
        ("[cpu]\ncores = 0", "cpu.cores", ["1 to 4096", "0"]),
        ("[cpu]\ncores = -2", "cpu.cores", ["-2"]),
        ("[cpu]\ncores = 1.5", "cpu.cores", ["whole number"]),
        ("[cpu]\ncores = true", "cpu.cores", ["whole number"]),
        ('[cpu]\ncores = "4"', "cpu.cores", ["whole number"]),
        ("[cpu]\nthreads = 0", "cpu.threads", ["whole number"]),
        ('[cpu]\nfrequency = "fast"', "cpu.frequency", ["1.5 GHz", "'fast'"]),
        ('[cpu]\nfrequency = "0 GHz"', "cpu.frequency", ["more than nothing"]),
        ('[cpu]\nl1d = "0.3 B"', "cpu.l1d", ["whole number of bytes"]),
        ('[memory]\nsize = "-4 GB"', "memory.size", ["negative", "'-4 GB'"]),
        ('[memory]\nsize = "0 GB"', "memory.size", ["more than nothing"]),
        ("[memory]\nsize = 4", "memory.size", ["unit"]),
        ('[memory]\nbandwidth = "4 GB"', "memory.bandwidth", ["GB/s"]),
        ('[policy]\nprecision = "int8"', "policy.precision", ["list"]),
        ("[policy]\nprecision = []", "policy.precision", ["list"]),
        ('[policy]\nprecision = ["int8", "int8"]', "policy.precision", ["once"]),
        ('[policy]\nprecision = ["int7"]', "policy.precision", ["int8", "bfloat16"]),
        ("[policy]\nmax_drop = 1.5", "policy.max_drop", ["0 to 1"]),
        ("[policy]\nmax_drop = nan", "policy.max_drop", ["0 to 1"]),
        ('[budget]\nlatency = "5 m"', "budget.latency", ["ms"]),
        ('[budget]\nlatency = "0 s"', "budget.latency", ["more than nothing"]),
        ("[cpu]\nfeatures = 3", "cpu.features", ["list"]),
        ('[cpu]\nfeatures = ["dotprod"]', "cpu.features", ["+NAME", "dotprod"]),
        ('[cpu]\nfeatures = ["+aes", "-aes"]', "cpu.features", ["both"]),
        ("[cpu]\ncorse = 4", "cpu.corse", ["did you mean cpu.cores"]),
        ("cores = 4", "cores", ["did you mean cpu.cores"]),
        ("[cpu]\nsize = 4", "cpu.size", ["memory.size"]),
        ("[cpu]\nzzz = 4", "cpu.zzz", ["cpu.cores", "cpu.l1d"]),
        ("[memroy]\nsize = 4", "memroy", ["did you mean [memory]"]),
        ("[zzz]\nsize = 4", "zzz", ["[cpu]", "[memory]"]),
        ("memory = 4", "memory", ["table", "[memory]"]),
        ("accelerator = 4", "accelerator", ["[[accelerator]]"]),
        ('[accelerator]\nname = "H200"', "accelerator", ["[[accelerator]]"]),
        ("[[accelerator]]", "accelerator.name", ["missing"]),
        ('[[accelerator]]\nname = ""', "accelerator.name", ["missing"]),
        ('[[accelerator]]\nname = "two\\nlines"', "accelerator.name", ["line"]),
        ('[[accelerator]]\nname = "H200"\nmemory = "0 GB"', "accelerator.memory", ["more than nothing"]),
        ('[[accelerator]]\nname = "H200"\nmemroy = "4 GB"', "accelerator.memroy", ["did you mean accelerator.memory?"]),
        ('[[acelerator]]\nname = "H200"', "acelerator", ["did you mean [[accelerator]]?"]),
        ('[memory]\nsize = "512 KiB"', "cpu.l2", ["1 MiB", "512 KiB", "memory.size"]),
        ('[cpu]\nl1d = "2 GB"\nl2 = "1 B"\n[memory]\nsize = "1 GB"', "cpu.l1d", ["2 GB", "1 GB"]),
        ('[memory]\nsize = "1 GB"\n[budget]\nmemory = "2 GB"', "budget.memory", ["2 GB", "1 GB", "memory.size"]),
        ('kind = "cuda"', "kind", ["llvm"]),
        ('triple = "sparc-linux-gnu"', "triple", ["riscv64-linux-gnu"]),
        ("triple = []", "triple", ["riscv64-linux-gnu"]),
        ('name = "two words"', "name", ["letters"]),
        ('description = "two\\nlines"', "description", ["line"]),
        ('[cpu]\nname = "cortex-a999"', None, ["cortex-a999", "did you mean"]),
        ('[cpu]\nname = "x86-64-v3"', None, ["x86-64-v3", "aarch64"]),
        ('[cpu]\nfeatures = ["+dotprd"]', None, ["dotprd", "did you mean dotprod"]),
        ('extends = "cortex-a72"', None, ["TOML"]),  # a second time
        ("[cpu", None, ["TOML", "line"]),
    ],
)
def test_what_is_wrong_is_named_in_one_line(write, text, field, parts):
    path = write(f'extends = "cortex-a72"\n{text}\n')
    with pytest.raises(TargetError) as caught:
        resolve_target(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in [*parts, *([field] if field else [])]:
        assert part in message, message
    assert caught.value.path == str(path)
    if field:
        assert caught.value.field == field


@pytest.mark.parametrize("field", ["triple", "cpu.name", "cpu.cores"])
def test_what_a_target_can_not_do_without_is_asked_for(field):
    document = {"triple": "x86_64-linux-gnu", "cpu": {"name": "x86-64-v2", "cores": 2}}
    assert resolve_target(document).resources.threads == 2
    table, _, key = field.rpartition(".")
    del (document[table] if table else document)[key]  # type: ignore[attr-defined]
    with pytest.raises(TargetError, match=f"{field} is missing"):
        resolve_target(document)


def test_an_error_in_the_parent_names_the_parent(write):
    write("[cpu]\ncores = 0", "base.toml")
    with pytest.raises(TargetError, match=r"base\.toml: cpu\.cores"):
        resolve_target(write('extends = "base.toml"'))


@pytest.mark.parametrize(
    ("parent", "parts"),
    [
        ("cortex-a73", ["there is no target 'cortex-a73'", "cortex-a72"]),
        ("nowhere.toml", ["nowhere.toml", "No such file"]),
        ("./board.toml", ["comes back to itself"]),
    ],
)
def test_a_parent_that_can_not_be_is_named_with_who_wants_it(write, parent, parts):
    path = write(f'extends = "{parent}"')
    with pytest.raises(TargetError) as caught:
        resolve_target(path)
    assert str(caught.value).startswith(f"{path}: extends: ")
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert (caught.value.path, caught.value.field) == (str(path), "extends")


def test_a_longer_circle_is_found_through_links_too(write, tmp_path):
    write('extends = "b.toml"', "a.toml")
    write('extends = "c.toml"', "b.toml")
    (tmp_path / "c.toml").symlink_to(tmp_path / "a.toml")
    with pytest.raises(TargetError, match="comes back to itself"):
        resolve_target(tmp_path / "a.toml")


def test_links_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "a.toml").symlink_to(tmp_path / "b.toml")
    (tmp_path / "b.toml").symlink_to(tmp_path / "a.toml")
    with pytest.raises(TargetError, match=r"a\.toml: can not be read"):
        resolve_target(tmp_path / "a.toml")


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"\x00"])
def test_what_is_no_file_of_text_is_refused(tmp_path, content):
    path = tmp_path / "board.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(TargetError, match=r"board\.toml"):
        resolve_target(path)


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({"triple": "x86_64-linux-gnu", "cpu": {"name": "i386", "cores": 1}}, "no 64-bit processor"),
        ({"triple": "riscv64-linux-gnu", "cpu": {"name": "sifive-e31", "cores": 1}}, "no 64-bit processor"),
        ({"triple": "riscv64-linux-gnu", "cpu": {"name": "generic-rv64", "cores": 1}}, "[+]d"),
        (
            {"extends": "riscv64", "cpu": {"features": ["+zfinx"]}},
            "zfinx",
        ),  # LLVM aborts: f and zfinx exclude each other
    ],
)
def test_processors_that_llvm_can_not_make_code_for_are_refused(document, part):
    with pytest.raises(TargetError, match=part) as caught:
        resolve_target(document)
    assert "\n" not in str(caught.value)


def test_features_that_no_processor_has_by_default_are_known():
    target = resolve_target({"extends": "x86-64-v2", "cpu": {"features": ["+avx512vp2intersect"]}})
    assert "avx512vp2intersect" in target.enabled_features()
