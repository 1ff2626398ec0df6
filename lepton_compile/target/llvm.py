"""What LLVM knows of processors, asked in a process of its own.

LLVM takes a processor that it does not know for the baseline, drops a feature that it does not know with no more than a
line on stderr, and aborts the process at some that exclude each other. Here each becomes an error.
"""

from __future__ import annotations

import difflib
import functools
import json
import subprocess
import sys

from lepton_compile.errors import BuildError, TargetError

_SECONDS = 120


def tvm_target(triple: str, cpu: str, features: tuple[str, ...]) -> dict[str, object]:
    """What `tvm.target.Target` takes for code by LLVM.

    Args:
        triple: Such as "aarch64-linux-gnu".
        cpu: LLVM's name of the processor.
        features: Signed names such as "+dotprod".
    """
    architecture = triple.partition("-")[0]
    attributes = list(features)
    # Loops that LLVM vectorises itself get 32-byte vectors on most processors with AVX-512 unless it is told so.
    if architecture == "x86_64" and not any(feature[1:] == "prefer-256-bit" for feature in features):
        attributes.append("-prefer-256-bit")
    # Distributions of Linux for RISC-V pass floats in the registers of the extension d.
    abi = {"mabi": "lp64d"} if architecture == "riscv64" else {}
    return {"kind": "llvm", "mtriple": triple, "mcpu": cpu, "mattr": attributes, **abi}


def enabled_features(triple: str, cpu: str, features: tuple[str, ...]) -> frozenset[str]:
    """The features that LLVM compiles for, with all that they imply.

    Args:
        triple: Such as "aarch64-linux-gnu".
        cpu: LLVM's name of the processor.
        features: Signed names such as "+dotprod".

    Raises:
        TargetError: LLVM does not know the processor or a feature, or can not compile 64-bit code for them.
        BuildError: LLVM could not be asked.
    """
    answer, refusal = _ask(json.dumps(tvm_target(triple, cpu, features)))
    architecture = triple.partition("-")[0]
    cpus, known, enabled = (set(answer[key]) for key in ("cpus", "known", "enabled"))
    if cpu not in cpus:
        raise TargetError(
            f"LLVM has no processor '{cpu}' for {architecture}{_hint(cpu, cpus)}", cpu=cpu, architecture=architecture
        )
    for feature in features:
        if feature[1:] not in known:
            raise TargetError(
                f"LLVM has no feature '{feature[1:]}' for {architecture}{_hint(feature[1:], known)}",
                feature=feature,
                architecture=architecture,
            )
    if architecture != "aarch64" and "64bit" not in enabled:
        raise TargetError(f"'{cpu}' is no 64-bit processor, which {triple} needs", cpu=cpu, triple=triple)
    if architecture == "riscv64" and "d" not in enabled:
        raise TargetError(
            f"'{cpu}' lacks the extension d, in whose registers libraries for {triple} pass floats (lp64d): "
            'add the feature "+d"',
            cpu=cpu,
            triple=triple,
        )
    if refusal:
        raise TargetError(
            f"LLVM refuses processor '{cpu}' with features {', '.join(features)}: {refusal}", cpu=cpu, features=features
        )
    return frozenset(enabled)


def _hint(name: str, names: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(names), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


@functools.cache
def _ask(question: str) -> tuple[dict[str, list[str]], str]:
    """What the worker answers; and what LLVM said when it compiled for the target, if it did not like it."""
    command = [sys.executable, "-P", "-m", "lepton_compile.target.llvm_worker", question]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"LLVM could not be asked about a processor: {error}", question=question) from error
    complaints = [line for line in done.stderr.splitlines() if line.startswith("LLVM ERROR")]
    try:
        answer: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise BuildError(
            f"LLVM could not be asked about a processor: {done.stderr[-500:]}", question=question
        ) from error
    if done.returncode:
        return answer, complaints[0] if complaints else f"its process ended with {done.returncode}"
    return answer, ""
