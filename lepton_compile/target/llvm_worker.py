"""The process in which LLVM is asked what it knows of a processor, and then made to compile for it.

Its argument is what `tvm.target.Target` takes, in JSON. It prints, in JSON, the processors there are, the features
there are, and the features that are on for the target; then it compiles an empty function, at which LLVM may abort.
"""

from __future__ import annotations

import json
import sys

import tvm
from tvm import tirx
from tvm.target import Target, codegen
from tvm.tirx import stmt


def answer(described: dict[str, object]) -> dict[str, list[str]]:
    """What LLVM knows of a target's processor; empty lists of features when it does not know the processor."""

    def enabled(cpu: str, features: list[str]) -> set[str]:
        target = Target({"kind": "llvm", "mtriple": described["mtriple"], "mcpu": cpu, "mattr": features})
        return {str(feature) for feature in codegen.llvm_get_cpu_features(target)}

    bare = Target({"kind": "llvm", "mtriple": described["mtriple"]})
    cpus = sorted(str(cpu) for cpu in codegen.llvm_get_cpu_archlist(bare))
    cpu, features = str(described["mcpu"]), list(map(str, described["mattr"]))  # type: ignore[call-overload]
    if cpu not in cpus:
        return {"cpus": cpus, "known": [], "enabled": []}
    # There is no list of features: those that any processor has, and those that come on when they are asked for.
    known = set().union(*(enabled(name, []) for name in cpus))
    known |= {feature[1:] for feature in features if feature[1:] in enabled(cpu, [f"+{feature[1:]}"])}
    return {"cpus": cpus, "known": sorted(known), "enabled": sorted(enabled(cpu, features))}


def compile_nothing(described: dict[str, object]) -> None:
    """Make code for a function that returns 0."""
    target = Target(described)
    empty = tirx.PrimFunc([], stmt.Return(tirx.const(0, "int32")), ret_type=tvm.ir.PrimType("int32"))
    empty = empty.with_attr("global_symbol", "empty").with_attr("target", target).with_attr("calling_conv", 0)
    tvm.get_global_func("target.build.llvm")(tvm.IRModule({"empty": empty}), target).inspect_source("asm")


if __name__ == "__main__":
    question = json.loads(sys.argv[1])
    found = answer(question)
    print(json.dumps(found), flush=True)
    if found["enabled"]:
        compile_nothing(question)
