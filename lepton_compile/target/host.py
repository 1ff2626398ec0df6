"""Sensing this machine: instruction set, cores within the limits of affinity and control groups, caches, memory.

`sense_host` reads what the system says, the same each time. `measure_host` adds what takes a moment to find out.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from lepton_compile.errors import TargetError
from lepton_compile.target.accelerators import nvidia_memory, sense_accelerators
from lepton_compile.target.cgroups import memory_limit, processor_limit
from lepton_compile.target.processors import (
    ARM_EXTRAS,
    RISCV_EXTENSIONS,
    X86_EXTRAS,
    X86_LEVELS,
    arm_features,
    riscv_features,
    x86_features,
    x86_level,
)
from lepton_compile.target.system_files import one_line, read_number, read_text
from lepton_compile.target.target import Resources, Target

_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64", "riscv64": "riscv64"}

# Of virtual machines that hide theirs: what a server's processors share in parts.
_UNKNOWN_CACHE_BYTES = 32 << 20


def sense_host() -> Target:
    """The target "host": this machine, with the processors and the memory that this process may use.

    What comes out is the same each time on the same machine under the same limits.

    Raises:
        TargetError: The system is not Linux, or its processor is none that can be compiled for.
    """
    if platform.system() != "Linux":
        raise TargetError(
            f"this machine runs {platform.system()}, and libraries can be made for Linux only; name another target",
            system=platform.system(),
        )
    return sense(Path("/"), host_architecture(), frozenset(os.sched_getaffinity(0)))


def measure_host() -> Target:
    """The target "host" as `sense_host` has it, and what is found out by trying: the bandwidth of memory, GPUs' memory.

    It takes about half a second, and longer where NVIDIA's GPUs have to wake up. Other work on the machine makes the
    bandwidth smaller.

    Raises:
        TargetError: The system is not Linux, or its processor is none that can be compiled for.
    """
    from lepton_compile.target.bandwidth import measure_bandwidth

    host, root = sense_host(), Path("/")
    threads, limit = host.resources.threads, host.resources.memory_bytes
    available = [_meminfo(root, "MemAvailable"), limit and limit // 2]
    bandwidth = measure_bandwidth(
        threads,
        cache_bytes(root, frozenset(os.sched_getaffinity(0)), threads) or _UNKNOWN_CACHE_BYTES,
        min((size for size in available if size is not None), default=0) // 2,
    )
    accelerators = sense_accelerators(root, nvidia_memory())
    return replace(host, resources=replace(host.resources, bandwidth_bytes_per_s=bandwidth, accelerators=accelerators))


def host_architecture() -> str:
    """This machine's architecture as in a triple.

    Raises:
        TargetError: It is none that can be compiled for.
    """
    machine = platform.machine()
    if machine.lower() not in _ARCHITECTURES:
        raise TargetError(
            f"this machine is '{machine}', which can not be compiled for; name another target", machine=machine
        )
    return _ARCHITECTURES[machine.lower()]


@functools.cache
def host_features() -> frozenset[str]:
    """The features of this machine's processor, in LLVM's names, out of those in `sensible_features`."""
    return _features(Path("/"), host_architecture())


def sensible_features(architecture: str) -> frozenset[str]:
    """The features that can be sensed on an architecture, in LLVM's names."""
    if architecture == "x86_64":
        return X86_LEVELS["x86-64-v4"] | set(X86_EXTRAS)
    return frozenset({"neon", *ARM_EXTRAS} if architecture == "aarch64" else RISCV_EXTENSIONS)


def sense(root: Path, architecture: str, allowed: frozenset[int]) -> Target:
    """The target "host" of the machine whose /proc and /sys are under a folder.

    Args:
        root: The root of the file system.
        architecture: "x86_64", "aarch64" or "riscv64".
        allowed: The logical processors that may be used.
    """
    features = _features(root, architecture)
    if architecture == "x86_64":
        cpu = x86_level(features)
        extras = features - X86_LEVELS[cpu]
    elif architecture == "aarch64":
        cpu, extras = "generic", features - {"neon"}
    else:
        cpu, extras = "generic-rv64", features
    limit = processor_limit(root)
    threads = len(allowed) if limit is None else max(1, min(len(allowed), int(limit)))
    cores = _cores(root, allowed)
    caches = _smallest([_caches(root, processor) for processor in cores])
    total = _meminfo(root, "MemTotal")
    limited = memory_limit(root)
    return Target(
        name="host",
        triple=f"{architecture}-linux-gnu",
        cpu=cpu,
        resources=Resources(
            cores=min(len(cores), threads),
            threads=threads,
            l1d_bytes=caches.get(1, Resources.l1d_bytes),
            l2_bytes=caches.get(2, Resources.l2_bytes),
            l3_bytes=caches.get(3, Resources.l3_bytes),
            frequency_hz=_frequency(root, cores),
            memory_bytes=min((size for size in (total, limited) if size is not None), default=None),
            accelerators=sense_accelerators(root, {}),
        ),
        features=tuple(f"+{name}" for name in sorted(extras)),
        description=f"this machine: {_model(root) or architecture}",
    )


def cache_bytes(root: Path, allowed: frozenset[int], threads: int) -> int:
    """The last-level caches that so many threads can have at most, together; 0 where the system does not say.

    Args:
        root: The root of the file system.
        allowed: The logical processors that may be used.
        threads: How many of them are used at once.
    """
    found = (_caches(root, processor) for processor in allowed)
    last = {caches[max(caches)] for caches in found if caches}
    return sum(sorted((cache.size for cache in last), reverse=True)[:threads])


@dataclass(frozen=True)
class _Cache:
    """Its size in bytes, and the list of the logical processors that share it."""

    size: int
    processors: str


def _cpuinfo(root: Path, key: str) -> list[str]:
    """What /proc/cpuinfo says under a key, for each processor."""
    return re.findall(rf"^{key}\s*:\s*(.*)$", read_text(root / "proc/cpuinfo"), re.MULTILINE)


def _meminfo(root: Path, key: str) -> int | None:
    """Bytes that /proc/meminfo says under a key."""
    match = re.search(rf"^{key}:\s*(\d+) kB", read_text(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _features(root: Path, architecture: str) -> frozenset[str]:
    """The features that all processors have."""
    if architecture == "x86_64":
        found = [x86_features(line.split()) for line in _cpuinfo(root, "flags")]
    elif architecture == "aarch64":
        found = [arm_features(line.split()) for line in _cpuinfo(root, "Features")] or [frozenset({"neon"})]
    else:
        # The baseline of every Linux distribution, for kernels that do not say.
        found = [riscv_features(line) for line in _cpuinfo(root, "isa")] or [frozenset(RISCV_EXTENSIONS)]
    return frozenset.intersection(*found) if found else frozenset()


def _model(root: Path) -> str:
    names = _cpuinfo(root, "model name") or [read_text(root / "proc/device-tree/model")]
    return one_line(names[0])


def _processor(root: Path, number: int) -> Path:
    return root / f"sys/devices/system/cpu/cpu{number}"


def _cores(root: Path, allowed: frozenset[int]) -> list[int]:
    """A logical processor of each physical core; all of them where the system does not say."""
    first: dict[str, int] = {}
    for number in sorted(allowed):
        topology = _processor(root, number) / "topology"
        # The same list under its old name before Linux 5.4.
        siblings = read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")
        first.setdefault(siblings or str(number), number)
    return list(first.values())


def _caches(root: Path, number: int) -> dict[int, _Cache]:
    """A logical processor's caches that hold data, by level."""
    found = {}
    for index in (_processor(root, number) / "cache").glob("index*"):
        size = re.fullmatch(r"(\d+)([KM]?)", read_text(index / "size"))
        level = read_text(index / "level")
        if size and int(size[1]) and level.isdigit() and read_text(index / "type") != "Instruction":
            amount = int(size[1]) * {"": 1, "K": 1024, "M": 1024**2}[size[2]]
            found[int(level)] = _Cache(amount, read_text(index / "shared_cpu_list") or str(number))
    return found


def _smallest(cores: Iterable[Mapping[int, _Cache]]) -> dict[int, int]:
    """The size of the caches of each level that a kernel can count on, on whichever core it runs."""
    sizes: dict[int, int] = {}
    for caches in cores:
        for level, cache in caches.items():
            sizes[level] = min(cache.size, sizes.get(level, cache.size))
    return sizes


def _frequency(root: Path, cores: Iterable[int]) -> int | None:
    """The mean of the cores' highest sustained frequencies in hertz; None where the system does not say.

    The processor's present frequency is taken only where it does not change, and rounded, as it is measured at boot.
    """
    sustained = [hertz for number in cores if (hertz := _sustained(root, number))]
    if sustained:
        return round(Fraction(sum(sustained), len(sustained)) / 10**6) * 10**6
    named = re.search(r"@ ([\d.]+)GHz", _model(root))
    if named:
        return int(Fraction(named[1]) * 10**9)
    present = _cpuinfo(root, "cpu MHz")
    if not present or Fraction(present[0]) < 100:
        return None
    return round(Fraction(present[0]) / 100) * 10**8


def _sustained(root: Path, number: int) -> int | None:
    """A core's highest frequency in hertz that lasts, or, where there is no such figure, the highest.

    Intel's driver has it as the base frequency (Documentation/admin-guide/pm/intel_pstate.rst), firmware as the nominal
    one (Documentation/admin-guide/acpi/cppc_sysfs.rst). Processors go beyond both for as long as they stay cool.
    """
    folder = _processor(root, number)
    for file, unit in (
        ("cpufreq/base_frequency", 1000),
        ("acpi_cppc/nominal_freq", 10**6),
        ("cpufreq/cpuinfo_max_freq", 1000),
    ):
        if figure := read_number(folder / file):
            return figure * unit
    return None
