"""This machine is sensed, within its limits; other machines are folders with what their /proc and /sys would say."""

from __future__ import annotations

import os
import platform
from dataclasses import replace

import pytest
from target.recorded import machine

from lepton_compile import TargetError, list_targets, resolve_target, sense_host
from lepton_compile.target import host as host_module
from lepton_compile.target.cgroups import memory_limit, processor_limit
from lepton_compile.target.host import cache_bytes, measure_host, sense, sensible_features
from lepton_compile.target.processors import X86_EXTRAS, X86_LEVELS

V1 = "fpu cmov cx8 fxsr mmx sse sse2"
V2 = f"{V1} cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = f"{V2} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
PI = "fp asimd evtstrm crc32 cpuid"
A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


def cpuinfo(flags: str, count: int = 1, key: str = "flags", **more: str) -> str:
    lines = "".join(f"{name}\t: {value}\n" for name, value in {**more, key: flags}.items())
    return "\n".join(f"processor\t: {number}\n{lines}" for number in range(count))


@pytest.mark.parametrize(
    ("flags", "cpu", "features", "instruction_set"),
    [
        (V1, "x86-64", (), "scalar"),
        (V2, "x86-64-v2", (), "sse4.2"),
        (V3, "x86-64-v3", (), "avx2"),
        (f"{V3} avx_vnni", "x86-64-v3", ("+avxvnni",), "avx2"),
        (V4, "x86-64-v4", (), "avx512"),
        (
            f"{V4} avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8",
            "x86-64-v4",
            ("+amx-int8", "+amx-tile", "+avx512bf16", "+avx512fp16", "+avx512vnni"),
            "avx512",
        ),
        (
            f"{V3} avx512f avx512cd".replace("movbe ", ""),
            "x86-64-v2",
            ("+avx", "+avx2", "+avx512cd", "+avx512f", "+bmi", "+bmi2", "+f16c", "+fma", "+lzcnt", "+xsave"),
            "avx2",
        ),
    ],
)
def test_x86_is_a_level_and_what_it_has_besides(tmp_path, flags, cpu, features, instruction_set):
    target = sense(machine(tmp_path, {"proc/cpuinfo": cpuinfo(flags)}), "x86_64", frozenset({0}))
    assert (target.cpu, target.features, target.instruction_set) == (cpu, features, instruction_set)


def test_features_are_those_that_all_processors_have(tmp_path):
    text = cpuinfo(V4) + "\n" + cpuinfo(V3)
    assert sense(machine(tmp_path, {"proc/cpuinfo": text}), "x86_64", frozenset({0, 1})).cpu == "x86-64-v3"


@pytest.mark.parametrize(
    ("flags", "features"),
    [(PI, ("+crc",)), (A76, ("+aes", "+crc", "+dotprod", "+fullfp16", "+lse", "+rdm", "+sha2"))],
)
def test_arm_is_generic_and_what_it_has_besides(tmp_path, flags, features):
    files = {
        "proc/cpuinfo": cpuinfo(flags, 4, key="Features"),
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "proc/meminfo": "MemTotal:        3884364 kB\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1500000\n",
    }
    target = sense(machine(tmp_path, files), "aarch64", frozenset(range(4)))
    assert (target.cpu, target.features, target.instruction_set) == ("generic", features, "neon")
    assert target.description == "this machine: Raspberry Pi 4 Model B Rev 1.4"
    assert target.resources.frequency_hz == 1_500_000_000
    assert target.resources.memory_bytes == 3884364 * 1024
    # The features are LLVM's: it takes them all.
    assert {feature[1:] for feature in features} <= target.enabled_features()


def test_riscv_is_generic_and_its_extensions(tmp_path):
    files = {"proc/cpuinfo": cpuinfo("rv64imafdc_zicntr_zicsr", key="isa")}
    target = sense(machine(tmp_path, files), "riscv64", frozenset({0}))
    assert (target.cpu, target.features) == ("generic-rv64", ("+a", "+c", "+d", "+f", "+m"))


def test_a_machine_that_says_nothing_still_is_a_target(tmp_path):
    for architecture in ("x86_64", "aarch64", "riscv64"):
        target = sense(tmp_path, architecture, frozenset({3}))
        assert target.resources.cores == target.resources.threads == 1
        assert target.resources.memory_bytes is None
        assert target.resources.l1d_bytes == 32 * 1024
        assert resolve_target(target.describe()) == target


def test_cores_are_counted_among_the_processors_that_may_be_used(tmp_path):
    files = {"proc/cpuinfo": cpuinfo(V3, 8)}
    for number in range(8):
        siblings = f"{number % 4},{number % 4 + 4}"
        files[f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"] = siblings
    root = machine(tmp_path, files)

    def counted(*allowed: int) -> tuple[int, int]:
        resources = sense(root, "x86_64", frozenset(allowed)).resources
        return resources.cores, resources.threads

    assert counted(*range(8)) == (4, 8)
    assert counted(0, 4) == (1, 2)
    assert counted(0, 1) == (2, 2)


def test_caches_are_those_that_hold_data(tmp_path):
    folder = "sys/devices/system/cpu/cpu0/cache"
    caches = [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2048K"), ("3", "Unified", "32M")]
    files = {
        f"{folder}/index{index}/{key}": value + "\n"
        for index, cache in enumerate(caches)
        for key, value in zip(("level", "type", "size"), cache, strict=True)
    }
    resources = sense(machine(tmp_path, files), "x86_64", frozenset({0})).resources
    assert (resources.l1d_bytes, resources.l2_bytes, resources.l3_bytes) == (48 * 1024, 2 * 2**20, 32 * 2**20)


def cores(*kinds: tuple[int, dict[str, str]]) -> dict[str, str]:
    """As many cores of each kind as it says, with these files in the folder of each."""
    folders = [files for count, files in kinds for _ in range(count)]
    return {
        f"sys/devices/system/cpu/cpu{number}/{name}": text
        for number, files in enumerate(folders)
        for name, text in files.items()
    }


def cache(level: int, size: str, shared: str = "") -> dict[str, str]:
    folder = f"cache/index{level}"
    more = {f"{folder}/shared_cpu_list": shared} if shared else {}
    return {f"{folder}/level": f"{level}\n", f"{folder}/type": "Unified\n", f"{folder}/size": f"{size}\n", **more}


def test_cores_that_differ_count_with_their_mean_frequency_and_their_smallest_caches(tmp_path):
    little = {"cpufreq/cpuinfo_max_freq": "1800000\n", **cache(1, "32K"), **cache(2, "128K"), **cache(3, "3072K")}
    big = {"cpufreq/cpuinfo_max_freq": "2400000\n", **cache(1, "64K"), **cache(2, "512K"), **cache(3, "3072K")}
    root = machine(tmp_path, cores((4, little), (4, big)))
    resources = sense(root, "aarch64", frozenset(range(8))).resources
    assert resources.frequency_hz == 2_100_000_000
    assert (resources.l1d_bytes, resources.l2_bytes, resources.l3_bytes) == (32 * 1024, 128 * 1024, 3 * 2**20)
    # Where a process may use the fast ones alone, only they count.
    resources = sense(root, "aarch64", frozenset(range(4, 8))).resources
    assert (resources.frequency_hz, resources.l2_bytes) == (2_400_000_000, 512 * 1024)


def test_two_threads_of_a_core_do_not_count_twice(tmp_path):
    fast = {"cpufreq/base_frequency": "3000000", "topology/core_cpus_list": "0-1"}
    slow = {"cpufreq/base_frequency": "2000000"}
    resources = sense(machine(tmp_path, cores((2, fast), (1, slow))), "x86_64", frozenset(range(3))).resources
    assert (resources.cores, resources.threads, resources.frequency_hz) == (2, 3, 2_500_000_000)


@pytest.mark.parametrize(
    ("files", "hertz"),
    [
        ({"cpufreq/base_frequency": "2100000\n", "cpufreq/cpuinfo_max_freq": "3700000\n"}, 2_100_000_000),
        ({"acpi_cppc/nominal_freq": "2400\n", "cpufreq/cpuinfo_max_freq": "3700000\n"}, 2_400_000_000),
        ({"acpi_cppc/nominal_freq": "0\n", "cpufreq/cpuinfo_max_freq": "2599998\n"}, 2_600_000_000),
        ({"cpufreq/base_frequency": "<unknown>\n"}, None),
    ],
)
def test_the_frequency_is_one_that_lasts(tmp_path, files, hertz):
    assert sense(machine(tmp_path, cores((1, files))), "x86_64", frozenset({0})).resources.frequency_hz == hertz


def test_last_level_caches_are_counted_once_and_no_more_than_threads(tmp_path):
    kinds = [(2, {**cache(2, "1M"), **cache(3, "32M", f"{first}-{first + 1}")}) for first in (0, 2, 4, 6)]
    root = machine(tmp_path, cores(*kinds))
    assert cache_bytes(root, frozenset(range(8)), 8) == 4 * 32 * 2**20
    assert cache_bytes(root, frozenset(range(8)), 2) == 2 * 32 * 2**20
    assert cache_bytes(root, frozenset({0, 1}), 2) == 32 * 2**20
    assert cache_bytes(tmp_path / "nothing", frozenset({0}), 1) == 0
    private = machine(tmp_path / "private", cores((2, cache(2, "512K"))))
    assert cache_bytes(private, frozenset({0, 1}), 2) == 2**20


@pytest.mark.parametrize(
    ("more", "hertz"),
    [
        ({"model name": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cpu MHz": "2199.99"}, 2_200_000_000),
        ({"model name": "AMD EPYC", "cpu MHz": "2599.998"}, 2_600_000_000),
        ({"model name": "AMD EPYC"}, None),
    ],
)
def test_the_frequency_is_the_same_at_every_look(tmp_path, more, hertz):
    root = machine(tmp_path, {"proc/cpuinfo": cpuinfo(V3, **more)})
    assert sense(root, "x86_64", frozenset({0})).resources.frequency_hz == hertz


# What a process sees of control groups: all of the machine's, or, in a container, mounts that have its own group at the
# top, while the path still begins at the machine's or begins there too.
V1_MOUNT = "30 25 0:26 {root} /sys/fs/cgroup/{name} rw,relatime - cgroup cgroup rw,{name}\n"
V2_MOUNT = "30 25 0:26 {root} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("group", "top", "inside"),
    [("/jobs/one", "/", "/jobs/one"), ("/docker/abc", "/docker/abc", ""), ("/", "/docker/abc", "")],
)
def test_limits_of_version_1_are_found(tmp_path, group, top, inside):
    mounts = V1_MOUNT.format(root=top, name="memory") + V1_MOUNT.format(root=top, name="cpu,cpuacct")
    files = {
        "proc/self/cgroup": f"4:memory:{group}\n3:cpu,cpuacct:{group}\n0::/\n",
        "proc/self/mountinfo": mounts,
        f"sys/fs/cgroup/memory{inside}/memory.limit_in_bytes": "536870912\n",
        f"sys/fs/cgroup/cpu,cpuacct{inside}/cpu.cfs_quota_us": "250000\n",
        f"sys/fs/cgroup/cpu,cpuacct{inside}/cpu.cfs_period_us": "100000\n",
        "proc/meminfo": "MemTotal: 8000000 kB\n",
        "proc/cpuinfo": cpuinfo(V3, 8),
    }
    root = machine(tmp_path, files)
    resources = sense(root, "x86_64", frozenset(range(8))).resources
    assert (resources.memory_bytes, resources.threads, resources.cores) == (536870912, 2, 2)


def test_limits_of_version_2_are_found_in_the_groups_around_too(tmp_path):
    files = {
        "proc/self/cgroup": "0::/outer/inner\n",
        "proc/self/mountinfo": V2_MOUNT.format(root="/"),
        "sys/fs/cgroup/outer/inner/cpu.max": "400000 100000\n",
        "sys/fs/cgroup/outer/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
        "sys/fs/cgroup/outer/memory.max": "1000000\n",
    }
    root = machine(tmp_path, files)
    assert (processor_limit(root), memory_limit(root)) == (0.5, 1_000_000)
    assert sense(root, "x86_64", frozenset(range(8))).resources.threads == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "nonsense\n"},
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT.format(root="/"),
            "sys/fs/cgroup/cpu.max": "max 100000\n",
            "sys/fs/cgroup/memory.max": "max\n",
        },
        {
            "proc/self/cgroup": "3:cpu:/\n",
            "proc/self/mountinfo": V1_MOUNT.format(root="/", name="cpu"),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_no_limit_is_no_limit(tmp_path, files):
    root = machine(tmp_path, files)
    assert (processor_limit(root), memory_limit(root)) == (None, None)


linux = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux can be sensed")


@linux
def test_this_machine_is_sensed_alike_each_time_and_survives_the_file(tmp_path):
    target = sense_host()
    assert target == sense_host() == resolve_target("host")
    assert 1 <= target.resources.cores <= target.resources.threads <= len(os.sched_getaffinity(0))
    assert target.resources.memory_bytes
    (tmp_path / "my.toml").write_text(target.to_toml())
    assert resolve_target(tmp_path / "my.toml") == target
    assert target.is_host_compatible()


@linux
def test_measuring_adds_to_what_is_sensed_and_nothing_else():
    sensed, measured = sense_host(), measure_host()
    bandwidth = measured.resources.bandwidth_bytes_per_s
    assert bandwidth is None or bandwidth > 10**8
    assert sensed.resources.bandwidth_bytes_per_s is None
    assert len(measured.resources.accelerators) == len(sensed.resources.accelerators)
    same = replace(measured.resources, bandwidth_bytes_per_s=None, accelerators=sensed.resources.accelerators)
    assert replace(measured, resources=same) == sensed
    assert resolve_target(measured.describe()) == measured


@linux
def test_affinity_limits_the_threads():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert sense_host().resources.threads == sense_host().resources.cores == 1
    finally:
        os.sched_setaffinity(0, allowed)


@linux
def test_llvm_finds_the_same_features_on_this_machine():
    tvm = pytest.importorskip("tvm")
    said = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    # AMX comes with a permission that LLVM asks the system for.
    features = {name for name in sensible_features(sense_host().architecture) if not name.startswith("amx")}
    present = {str(name) for name, on in said.items() if on} & features
    assert sense_host().enabled_features() & features == present


@linux
def test_what_this_machine_lacks_is_named(monkeypatch):
    monkeypatch.setattr(host_module, "host_architecture", lambda: "x86_64")
    monkeypatch.setattr(host_module, "host_features", lambda: X86_LEVELS["x86-64-v3"])
    assert resolve_target("x86-64-v3").host_obstacle() is None
    obstacle = resolve_target("x86-64-v4-vnni").host_obstacle()
    assert obstacle is not None
    assert "avx512f" in obstacle
    assert "avx512vnni" in obstacle
    assert "fma" not in obstacle
    assert "aarch64" in str(resolve_target("raspberry-pi-4").host_obstacle())
    assert not resolve_target("raspberry-pi-4").is_host_compatible()


def test_other_systems_are_refused_clearly(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(TargetError, match="Darwin"):
        resolve_target("host")
    assert "host" not in {target.name for target in list_targets()}
    assert "Darwin" in str(resolve_target("x86-64-v3").host_obstacle())


def test_other_processors_are_refused_clearly(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(TargetError, match="s390x"):
        sense_host()
    assert set(X86_EXTRAS) <= sensible_features("x86_64")
