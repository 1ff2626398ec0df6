"""Which extensions of the instruction set a library asks the processor for before it runs, and how it asks.

Without the question, the first run on an older processor would end in an illegal instruction. Asked for are the
extensions that a compiler uses on its own account or kernels use on purpose. Those that neither does, such as AES, are
left out: processors of one name differ in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_compile.target import Target

X86 = {
    "sse3": (1, 0, "ECX", 0, "NO"),
    "ssse3": (1, 0, "ECX", 9, "NO"),
    "fma": (1, 0, "ECX", 12, "AVX"),
    "sse4.1": (1, 0, "ECX", 19, "NO"),
    "sse4.2": (1, 0, "ECX", 20, "NO"),
    "movbe": (1, 0, "ECX", 22, "NO"),
    "popcnt": (1, 0, "ECX", 23, "NO"),
    "avx": (1, 0, "ECX", 28, "AVX"),
    "f16c": (1, 0, "ECX", 29, "AVX"),
    "bmi": (7, 0, "EBX", 3, "NO"),
    "avx2": (7, 0, "EBX", 5, "AVX"),
    "bmi2": (7, 0, "EBX", 8, "NO"),
    "avx512f": (7, 0, "EBX", 16, "AVX512"),
    "avx512dq": (7, 0, "EBX", 17, "AVX512"),
    "avx512ifma": (7, 0, "EBX", 21, "AVX512"),
    "avx512cd": (7, 0, "EBX", 28, "AVX512"),
    "avx512bw": (7, 0, "EBX", 30, "AVX512"),
    "avx512vl": (7, 0, "EBX", 31, "AVX512"),
    "avx512vbmi": (7, 0, "ECX", 1, "AVX512"),
    "avx512vbmi2": (7, 0, "ECX", 6, "AVX512"),
    "gfni": (7, 0, "ECX", 8, "NO"),
    "avx512vnni": (7, 0, "ECX", 11, "AVX512"),
    "avx512bitalg": (7, 0, "ECX", 12, "AVX512"),
    "avx512vpopcntdq": (7, 0, "ECX", 14, "AVX512"),
    "amx-bf16": (7, 0, "EDX", 22, "AMX"),
    "avx512fp16": (7, 0, "EDX", 23, "AVX512"),
    "amx-tile": (7, 0, "EDX", 24, "AMX"),
    "amx-int8": (7, 0, "EDX", 25, "AMX"),
    "avxvnni": (7, 1, "EAX", 4, "AVX"),
    "avx512bf16": (7, 1, "EAX", 5, "AVX512"),
    "amx-fp16": (7, 1, "EAX", 21, "AMX"),
    "avxifma": (7, 1, "EAX", 23, "AVX"),
    "avxvnniint8": (7, 1, "EDX", 4, "AVX"),
    "avxneconvert": (7, 1, "EDX", 5, "AVX"),
    "avxvnniint16": (7, 1, "EDX", 10, "AVX"),
    "lzcnt": (0x80000001, 0, "ECX", 5, "NO"),
    "sse4a": (0x80000001, 0, "ECX", 6, "NO"),
    "xop": (0x80000001, 0, "ECX", 11, "AVX"),
    "fma4": (0x80000001, 0, "ECX", 16, "AVX"),
    "tbm": (0x80000001, 0, "ECX", 21, "NO"),
}
"""Leaf, subleaf, register and bit of CPUID, and the registers that the system must save, by LLVM's name of the feature.

Intel SDM volume 2, CPUID; AMD64 Architecture Programmer's Manual volume 3, appendix E, for the extended leaf.
"""

ARM = {
    "neon": ("AT_HWCAP", (1,)),
    "fullfp16": ("AT_HWCAP", (9, 10)),
    "rdm": ("AT_HWCAP", (12,)),
    "complxnum": ("AT_HWCAP", (14,)),
    "dotprod": ("AT_HWCAP", (20,)),
    "sve": ("AT_HWCAP", (22,)),
    "fp16fml": ("AT_HWCAP", (23,)),
    "sve2": ("AT_HWCAP2", (1,)),
    "i8mm": ("AT_HWCAP2", (13,)),
    "bf16": ("AT_HWCAP2", (14,)),
}
"""Word and bits of the auxiliary vector, by LLVM's name of the feature: Linux, arch/arm64/include/uapi/asm/hwcap.h."""

RISCV = {letter: ("AT_HWCAP", (ord(letter) - ord("a"),)) for letter in "acdfmv"}
"""The same: Linux, arch/riscv/include/uapi/asm/hwcap.h. Extensions of longer names are not told."""


def cpu_checks(target: Target) -> tuple[str, ...]:
    """What the library asks of the processor: C initialisers of `struct lepton_cpu_feature`, in the tables' order."""
    enabled = target.enabled_features()
    if target.architecture == "x86_64":
        return tuple(
            f'{{"{name}", {leaf:#x}, {subleaf}, LEPTON_{register}, {bit}, LEPTON_{state}_STATE}}'
            for name, (leaf, subleaf, register, bit, state) in X86.items()
            if name in enabled
        )
    table = ARM if target.architecture == "aarch64" else RISCV
    return tuple(
        f'{{"{name}", {word}, {sum(1 << bit for bit in bits):#x}}}'
        for name, (word, bits) in table.items()
        if name in enabled
    )
