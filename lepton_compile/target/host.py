"""Sensing this machine: instruction set, cores within the limits of affinity and control groups, caches, memory."""

from __future__ import annotations

import functools
import os
import platform
import re
from fractions import Fraction
from pathlib import Path

from lepton_compile.errors import TargetError
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
from lepton_compile.target.target import Resources, Target

_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64", "riscv64": "riscv64"}


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
    caches = _caches(root, min(allowed))
    total = _memory(root)
    limited = memory_limit(root)
    return Target(
        name="host",
        triple=f"{architecture}-linux-gnu",
        cpu=cpu,
        resources=Resources(
            cores=min(_cores(root, allowed), threads),
            threads=threads,
            l1d_bytes=caches.get(1, Resources.l1d_bytes),
            l2_bytes=caches.get(2, Resources.l2_bytes),
            l3_bytes=caches.get(3, Resources.l3_bytes),
            frequency_hz=_frequency(root, min(allowed)),
            memory_bytes=min((size for size in (total, limited) if size is not None), default=None),
        ),
        features=tuple(f"+{name}" for name in sorted(extras)),
        description=f"this machine: {_model(root) or architecture}",
    )


def _text(path: Path) -> str:
    """A file's text; empty where there is none, as in many virtual machines."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _cpuinfo(root: Path, key: str) -> list[str]:
    """What /proc/cpuinfo says under a key, for each processor."""
    return re.findall(rf"^{key}\s*:\s*(.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)


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
    names = _cpuinfo(root, "model name") or [_text(root / "proc/device-tree/model")]
    return " ".join(names[0].split())


def _cores(root: Path, allowed: frozenset[int]) -> int:
    """The physical cores of logical processors; as many as those where the system does not say."""
    siblings = set()
    for processor in allowed:
        topology = root / f"sys/devices/system/cpu/cpu{processor}/topology"
        # The same list under its old name before Linux 5.4.
        siblings.add(_text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list") or str(processor))
    return len(siblings)


def _caches(root: Path, processor: int) -> dict[int, int]:
    """Sizes of the caches that hold data, by level."""
    sizes = {}
    for index in (root / f"sys/devices/system/cpu/cpu{processor}/cache").glob("index*"):
        size = re.fullmatch(r"(\d+)([KM]?)", _text(index / "size"))
        level = _text(index / "level")
        if size and int(size[1]) and level.isdigit() and _text(index / "type") != "Instruction":
            sizes[int(level)] = int(size[1]) * {"": 1, "K": 1024, "M": 1024**2}[size[2]]
    return sizes


def _frequency(root: Path, processor: int) -> int | None:
    """The highest frequency in hertz; None where the system does not say.

    The processor's present frequency is taken only where it does not change, and rounded, as it is measured at boot.
    """
    highest = _text(root / f"sys/devices/system/cpu/cpu{processor}/cpufreq/cpuinfo_max_freq")
    if highest.isdigit() and int(highest):
        return int(highest) * 1000
    named = re.search(r"@ ([\d.]+)GHz", _model(root))
    if named:
        return int(Fraction(named[1]) * 10**9)
    present = _cpuinfo(root, "cpu MHz")
    if not present or Fraction(present[0]) < 100:
        return None
    return round(Fraction(present[0]) / 100) * 10**8


def _memory(root: Path) -> int | None:
    """The machine's memory in bytes."""
    match = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None
