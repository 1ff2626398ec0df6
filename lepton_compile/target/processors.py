"""Which instructions processors have: the levels of x86-64, and how Linux and LLVM name the extensions of each."""

from __future__ import annotations

from collections.abc import Iterable

# The x86-64 psABI's microarchitecture levels, in LLVM's names, each level adding to the one before.
_LEVEL_ADDS = {
    "x86-64": ("cmov", "cx8", "fxsr", "mmx", "sse", "sse2"),
    "x86-64-v2": ("cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3"),
    "x86-64-v3": ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"),
    "x86-64-v4": ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"),
}


def _levels() -> dict[str, frozenset[str]]:
    levels: dict[str, frozenset[str]] = {}
    below: frozenset[str] = frozenset()
    for level, added in _LEVEL_ADDS.items():
        below = levels[level] = below | frozenset(added)
    return levels


X86_LEVELS = _levels()
"""The features of each level of x86-64, the lowest first."""

X86_EXTRAS = {
    **dict.fromkeys(("amx-bf16", "amx-fp16", "amx-int8", "amx-tile"), "x86-64"),
    **dict.fromkeys(("avxifma", "avxneconvert", "avxvnni", "avxvnniint8", "avxvnniint16"), "x86-64-v3"),
    **dict.fromkeys(("avx512bf16", "avx512fp16", "avx512ifma", "avx512vnni"), "x86-64-v4"),
    **dict.fromkeys(("avx512bitalg", "avx512vbmi", "avx512vbmi2", "avx512vpopcntdq"), "x86-64-v4"),
}
"""The extensions beyond the levels that kernels may gain from, each with the lowest level that has all it builds on."""

# Linux's names (arch/x86/include/asm/cpufeatures.h) where they are not LLVM's with an underscore in.
_X86_FLAGS = {
    "abm": "lzcnt",
    "bmi1": "bmi",
    "lahf_lm": "sahf",
    "pni": "sse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    **{extra.replace("-", "_"): extra for extra in X86_EXTRAS if extra.startswith("amx-")},
}

# Linux's names in the Features line (Documentation/arch/arm64/elf_hwcaps.rst). Half precision takes both of its flags.
_ARM_FLAGS = {
    "aes": "aes",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdfhm": "fp16fml",
    "asimdrdm": "rdm",
    "atomics": "lse",
    "bf16": "bf16",
    "crc32": "crc",
    "i8mm": "i8mm",
    "sha2": "sha2",
}
ARM_EXTRAS = tuple(sorted({"fullfp16", *_ARM_FLAGS.values()} - {"neon"}))
"""The extensions of AArch64 beyond its baseline that are sensed."""

ARM_CORES = {
    "generic": frozenset({"neon"}),
    "cortex-a53": frozenset({"neon", "aes", "crc", "sha2"}),
    "cortex-a72": frozenset({"neon", "aes", "crc", "sha2"}),
    "cortex-a76": frozenset({"neon", "aes", "crc", "dotprod", "fullfp16", "lse", "rdm", "sha2"}),
}
"""The features of these cores, as far as they are sensed: of the built-in targets, which so do not take LLVM."""

RISCV_EXTENSIONS = ("a", "c", "d", "f", "m")


def x86_features(flags: Iterable[str]) -> frozenset[str]:
    """LLVM's names of the features behind the flags of an x86-64 processor in /proc/cpuinfo."""
    known = {*X86_LEVELS["x86-64-v4"], *X86_EXTRAS}
    return frozenset({_X86_FLAGS.get(flag, flag.replace("_", "")) for flag in flags} & known)


def arm_features(flags: Iterable[str]) -> frozenset[str]:
    """LLVM's names of the features behind the Features line of an AArch64 processor in /proc/cpuinfo."""
    present = set(flags)
    features = {_ARM_FLAGS[flag] for flag in present & set(_ARM_FLAGS)}
    return frozenset(features | ({"fullfp16"} if {"fphp", "asimdhp"} <= present else set()))


def riscv_features(isa: str) -> frozenset[str]:
    """The single-letter extensions in the isa line of a riscv64 processor, such as rv64imafdc_zicsr."""
    letters = isa.partition("_")[0].removeprefix("rv64").replace("g", "imafd")
    return frozenset(set(letters) & set(RISCV_EXTENSIONS))


def x86_level(features: frozenset[str]) -> str:
    """The highest level of x86-64 whose features are all there."""
    return [level for level, needed in X86_LEVELS.items() if needed <= features or level == "x86-64"][-1]


def known_features(architecture: str, cpu: str, features: tuple[str, ...]) -> frozenset[str] | None:
    """The features of a processor and extensions; None where it takes LLVM to know what they imply.

    Args:
        architecture: "x86_64", "aarch64" or "riscv64".
        cpu: LLVM's name of the processor.
        features: Signed names such as "+dotprod", sorted by name.
    """
    if architecture == "x86_64":
        return _level_features(cpu, features)
    if architecture == "aarch64":
        return _core_features(cpu, features)
    baseline = tuple(f"+{extension}" for extension in RISCV_EXTENSIONS)
    return frozenset(RISCV_EXTENSIONS) if (cpu, features) == ("generic-rv64", baseline) else None


def _level_features(cpu: str, features: tuple[str, ...]) -> frozenset[str] | None:
    if cpu not in X86_LEVELS:
        return None
    names = {feature[1:] for feature in features if feature[1:] != "prefer-256-bit"}
    if not all(X86_LEVELS[X86_EXTRAS[name]] <= X86_LEVELS[cpu] if name in X86_EXTRAS else False for name in names):
        return None
    return (X86_LEVELS[cpu] | names) - _removed(features)


def _core_features(cpu: str, features: tuple[str, ...]) -> frozenset[str] | None:
    names, removed = {feature[1:] for feature in features}, _removed(features)
    if cpu not in ARM_CORES or not names <= set(ARM_EXTRAS):
        return None
    present = ARM_CORES[cpu] | (names - removed)
    # The one that implies another; what is taken away takes along what implies it.
    implied = frozenset({"fullfp16"}) if "fp16fml" in present else frozenset()
    return None if implied & removed else (present | implied) - removed


def _removed(features: tuple[str, ...]) -> frozenset[str]:
    return frozenset(feature[1:] for feature in features if feature.startswith("-"))
