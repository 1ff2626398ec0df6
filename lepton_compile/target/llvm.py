"""What LLVM knows of processors, asked in a process of its own.

LLVM takes a processor that it does not know for the baseline, drops a feature that it does not know with no more than a
line on stderr, and aborts the process at contradictory ones. Here each becomes an error.
"""

from __future__ import annotations

import difflib
import functools
import json
import subprocess
import sys

from lepton_compile.errors import BuildError, TargetError

_SECONDS = 120


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
    answer = _ask(triple, cpu, features)
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
            f"'{cpu}' lacks the extension d, and libraries for {triple} pass floats in its registers (lp64d): "
            'add the feature "+d"',
            cpu=cpu,
            triple=triple,
        )
    return frozenset(enabled)


def _hint(name: str, names: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(names), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


@functools.cache
def _ask(triple: str, cpu: str, features: tuple[str, ...]) -> dict[str, list[str]]:
    question = json.dumps({"triple": triple, "cpu": cpu, "features": features})
    command = [sys.executable, "-m", __name__, question]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"LLVM could not be asked about '{cpu}': {error}", cpu=cpu) from error
    if done.returncode < 0:
        said = done.stderr.strip().splitlines()
        raise TargetError(
            f"LLVM refuses processor '{cpu}' with features {list(features)}: {said[0] if said else 'it crashed'}",
            cpu=cpu,
            features=features,
        )
    if done.returncode:
        raise BuildError(f"LLVM could not be asked about '{cpu}': {done.stderr.strip()[-500:]}", cpu=cpu)
    answer: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _answer(triple: str, cpu: str, features: list[str]) -> dict[str, list[str]]:
    """The other end of `_ask`: the processors and features there are, and those that were asked for."""
    from tvm.target import Target, codegen

    def enabled(name: str, extra: list[str]) -> set[str]:
        target = Target({"kind": "llvm", "mtriple": triple, "mcpu": name, "mattr": extra})
        return {str(feature) for feature in codegen.llvm_get_cpu_features(target)}

    bare = Target({"kind": "llvm", "mtriple": triple})
    cpus = sorted(str(name) for name in codegen.llvm_get_cpu_archlist(bare))
    if cpu not in cpus:
        return {"cpus": cpus, "known": [], "enabled": []}
    # There is no list of features: those that any processor has, and those that come on when they are asked for.
    known = set().union(*(enabled(name, []) for name in cpus))
    known |= {feature[1:] for feature in features if feature[1:] in enabled(cpu, [f"+{feature[1:]}"])}
    return {"cpus": cpus, "known": sorted(known), "enabled": sorted(enabled(cpu, features))}


if __name__ == "__main__":
    print(json.dumps(_answer(**json.loads(sys.argv[1]))))
