"""What a model is compiled for: `Target`, and the resources, the policy and the budget that come with it."""

from __future__ import annotations

import numbers
import platform
from dataclasses import dataclass, field, replace

from lepton_compile.errors import BudgetError
from lepton_compile.target import llvm
from lepton_compile.target.processors import known_features
from lepton_compile.target.quantities import format_quantity
from lepton_compile.target.toml_writer import toml_text

PRECISIONS = ("float32", "bfloat16", "float16", "int8")

# The first C library that has everything a library uses, so that it runs on old systems too: 2.17 is of 2012 and the
# first for aarch64 (manylinux2014 stands on it), 2.27 the first for riscv64.
_GLIBC = {"x86_64": "2.17", "aarch64": "2.17", "riscv64": "2.27"}

_VECTOR_BYTES = {"scalar": 16, "sse4.2": 16, "neon": 16, "avx2": 32, "avx512": 64}


@dataclass(frozen=True)
class Accelerator:
    """A processor beside the cores: a GPU, or one for neural networks.

    Attributes:
        name: What its driver or the device tree calls it.
        memory_bytes: Memory of its own; None where it has none, or it is not known.
    """

    name: str
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Resources:
    """What a machine has to compute with.

    Attributes:
        cores: Physical cores.
        threads: Threads that can usefully run at once; logical processors within the limits of affinity and cgroups.
        l1d_bytes: Size of one core's level-1 data cache; of each level the smallest where cores differ, as any of them
            may run a kernel.
        l2_bytes: Size of one level-2 cache.
        l3_bytes: Size of one level-3 cache; 0 where there is none.
        frequency_hz: The cores' highest sustained frequency, their mean where they differ: work is shared out by who is
            done first, so that the cores together do the number of them times the mean. None where it is not known.
        multiply_adds: Vector multiply-adds of float32 that a core starts in a cycle.
        memory_bytes: Memory that a process can use; None where it is not known.
        bandwidth_bytes_per_s: What all cores together stream from memory; None where it is not known.
        accelerators: Processors beside the cores that a process can use.
    """

    cores: int
    threads: int
    l1d_bytes: int = 32 * 1024
    l2_bytes: int = 256 * 1024
    l3_bytes: int = 0
    frequency_hz: int | None = None
    multiply_adds: int = 2
    memory_bytes: int | None = None
    bandwidth_bytes_per_s: int | None = None
    accelerators: tuple[Accelerator, ...] = ()


PROCESS_BYTES = 4 << 20
"""What a process takes beside a library's weights and working memory, and the tensors that it hands over: code, the C
library, stacks."""


@dataclass(frozen=True)
class Policy:
    """What approximate passes may do on a target; only ever under an accuracy contract.

    Attributes:
        precision: The precisions to compute in, the preferred one first; of `PRECISIONS`.
        max_drop: The most that the metric may drop, as a share of 1.
    """

    precision: tuple[str, ...] = ("int8", "bfloat16", "float32")
    max_drop: float = 0.01


@dataclass(frozen=True)
class Budget:
    """What a model may cost on a target; None where there is no limit.

    Attributes:
        latency_s: Seconds that a run may take.
        memory_bytes: Peak memory of a run, weights included.
        size_bytes: Size of the library.
        max_drop: The most that the metric of an accuracy contract may drop, in its own unit; instead of the policy's.
    """

    latency_s: float | None = None
    memory_bytes: int | None = None
    size_bytes: int | None = None
    max_drop: float | None = None


@dataclass(frozen=True)
class Target:
    """A machine to compile for.

    Attributes:
        name: What it is called by.
        triple: Architecture, system and C library: "x86_64-linux-gnu".
        cpu: LLVM's name of the processor; a generic level such as "x86-64-v3" where any of that level will do.
        features: Instruction-set extensions that the processor has besides ("+avx512vnni") or lacks ("-aes"), in LLVM's
            names, sorted by name.
        resources: Cores, caches, memory.
        description: One line for people.
        kind: The backend that makes the code.
        policy: What approximate passes may do.
        budget: What a model may cost.
    """

    name: str
    triple: str
    cpu: str
    resources: Resources
    features: tuple[str, ...] = ()
    description: str = ""
    kind: str = "llvm"
    policy: Policy = field(default_factory=Policy)
    budget: Budget = field(default_factory=Budget)

    @property
    def architecture(self) -> str:
        """The first part of the triple: "x86_64", "aarch64" or "riscv64"."""
        return self.triple.partition("-")[0]

    @property
    def instruction_set(self) -> str:
        """The vector instructions that kernels are made of: "scalar", "sse4.2", "avx2", "avx512" or "neon".

        "avx512" is the set that all server processors since 2017 have: F, BW, DQ and VL.
        """
        if self.architecture != "x86_64":
            return "neon" if self.architecture == "aarch64" else "scalar"
        features = self.enabled_features()
        if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= features:
            return "avx512"
        return next((name for name in ("avx2", "sse4.2") if name in features), "scalar")

    @property
    def vector_bytes(self) -> int:
        """Size of a vector register that code should use: 16, 32 or 64; 16 where there are none, to unroll by."""
        if "+prefer-256-bit" in self.features:
            return min(32, _VECTOR_BYTES[self.instruction_set])
        return _VECTOR_BYTES[self.instruction_set]

    @property
    def vector_registers(self) -> int:
        """How many vector registers there are: 16 or 32; of floating-point registers where there are no vectors."""
        return 16 if self.architecture == "x86_64" and self.instruction_set != "avx512" else 32

    @property
    def has_fma(self) -> bool:
        """Whether a*b+c is one instruction, rounded once."""
        return self.architecture != "x86_64" or "fma" in self.enabled_features()

    @property
    def has_dot_products(self) -> bool:
        """Whether an instruction adds products of bytes, four at a time, to a vector of int32."""
        return bool(self.dot_products)

    @property
    def dot_products(self) -> str:
        """Name of that instruction, as `lepton_compile.kernels.byte_products` has it; empty if there is none."""
        if self.architecture == "riscv64":
            return ""
        features = self.enabled_features()
        if self.architecture == "aarch64":
            return "usdot" if "i8mm" in features else "sdot" if "dotprod" in features else ""
        # With AVX512-VNNI alone the instruction of 256 bits belongs to AVX512-VL.
        vnni = "avx512vnni" in features and (self.vector_bytes == 64 or "avx512vl" in features)
        return "vpdpbusd" if vnni or ("avxvnni" in features and self.vector_bytes == 32) else ""

    @property
    def has_bfloat16_dot_products(self) -> bool:
        """Whether an instruction adds products of bfloat16 numbers, two at a time, to a vector of float32."""
        return self.instruction_set == "avx512" and "avx512bf16" in self.enabled_features()

    def tvm(self) -> dict[str, object]:
        """What `tvm.target.Target` takes."""
        return llvm.tvm_target(self.triple, self.cpu, self.features)

    def zig_triple(self) -> str:
        """What `zig cc -target` takes.

        No processor is named beside it: the C driver tells the processor's abilities from within the library, so it has
        to run on any of the architecture.
        """
        return f"{self.triple}.{_GLIBC[self.architecture]}" if self.triple.endswith("-gnu") else self.triple

    def is_host_compatible(self) -> bool:
        """Whether this machine can run a library that was compiled for the target."""
        return self.host_obstacle() is None

    def host_obstacle(self) -> str | None:
        """Why this machine can not run a library that was compiled for the target; None when it can."""
        from lepton_compile.target.host import host_architecture, host_features, sensible_features

        if platform.system() != "Linux":
            return f"it is for {self.triple}, and this machine runs {platform.system()}"
        if host_architecture() != self.architecture:
            return f"it is for {self.architecture}, and this machine is {host_architecture()}"
        if missing := sorted(self.enabled_features() & sensible_features(self.architecture) - host_features()):
            return f"it needs {', '.join(missing)}, which this machine's processor lacks"
        return None

    def describe(self) -> dict[str, object]:
        """The target as a target file has it, without inheritance; `resolve_target` makes an equal target of it."""
        resources, budget = self.resources, self.budget
        accelerators = [
            {"name": accelerator.name, **_quantities("bytes", memory=accelerator.memory_bytes)}
            for accelerator in resources.accelerators
        ]
        return {
            "name": self.name,
            "description": self.description,
            "kind": self.kind,
            "triple": self.triple,
            "cpu": {
                "name": self.cpu,
                "features": list(self.features),
                "cores": resources.cores,
                "threads": resources.threads,
                **_quantities("hertz", frequency=resources.frequency_hz),
                "multiply_adds": resources.multiply_adds,
                **_quantities("bytes", l1d=resources.l1d_bytes, l2=resources.l2_bytes, l3=resources.l3_bytes),
            },
            "memory": {
                **_quantities("bytes", size=resources.memory_bytes),
                **_quantities("bytes per second", bandwidth=resources.bandwidth_bytes_per_s),
            },
            "policy": {"precision": list(self.policy.precision), "max_drop": self.policy.max_drop},
            "budget": {
                **_quantities("seconds", latency=budget.latency_s),
                **_quantities("bytes", memory=budget.memory_bytes, size=budget.size_bytes),
            },
            **({"accelerator": accelerators} if accelerators else {}),
        }

    def to_toml(self) -> str:
        """The target as the text of a target file, without inheritance."""
        return toml_text(self.describe())

    def enabled_features(self) -> frozenset[str]:
        """All features that code is made for, in LLVM's names: the processor's, and what the others imply.

        Raises:
            TargetError: LLVM knows no such processor or feature.
            BuildError: LLVM could not be asked.
        """
        known = known_features(self.architecture, self.cpu, self.features)
        return llvm.enabled_features(self.triple, self.cpu, self.features) if known is None else known

    def takes_llvm(self) -> bool:
        """Whether LLVM has to be asked what the features are, which takes a second or two the first time."""
        return known_features(self.architecture, self.cpu, self.features) is None


def with_budget(target: Target, budget: Budget | None) -> Target:
    """The target with a budget for this one compilation; what it leaves open, the target's own says.

    Raises:
        BudgetError: It is none that could be kept.
    """
    if budget is None:
        return target
    for name, unit in (("latency_s", "seconds"), ("memory_bytes", "bytes"), ("size_bytes", "bytes")):
        amount = getattr(budget, name)
        if amount is not None and not (_is_number(amount) and amount > 0):
            raise BudgetError(f"{name} has to be a number of {unit} above 0, and is {amount!r}")
    if budget.max_drop is not None and not (_is_number(budget.max_drop) and budget.max_drop >= 0):
        raise BudgetError(f"a metric may drop by a number of 0 or more, not by {budget.max_drop!r}")
    given = {name: value for name, value in vars(budget).items() if value is not None and name != "max_drop"}
    if "latency_s" in given:
        given["latency_s"] = float(given["latency_s"])  # numpy's numbers do not print as numbers
    drop = target.policy.max_drop if budget.max_drop is None else budget.max_drop
    return replace(target, budget=replace(target.budget, **given), policy=replace(target.policy, max_drop=drop))


def with_latency(target: Target, seconds: float | None) -> Target:
    """The target with this budget for latency instead of its own; None: with none."""
    return replace(target, budget=replace(target.budget, latency_s=seconds))


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _quantities(kind: str, **amounts: float | None) -> dict[str, str]:
    return {name: format_quantity(amount, kind) for name, amount in amounts.items() if amount is not None}
