"""Compile y[i] += a[i] * b[i] over whole vectors for targets, and print the assembly of each as JSON.

A program of its own: LLVM says what it does not like about a target on stderr, or by aborting the process.
"""

import json
import sys

import tvm
from tvm import tirx
from tvm.tirx import stmt

VECTORS = 64


def multiply_add(lanes: int) -> tirx.PrimFunc:
    """Vectors of as many lanes; for one lane, a loop that is LLVM's to vectorise."""
    a, b, y = (tirx.decl_buffer((VECTORS * lanes,), "float32", name=name) for name in "aby")
    i, lane = tirx.Var("i", "int32"), tirx.Var("lane", "int32")
    at = [i * lanes + lane if lanes > 1 else i]
    value = tirx.BufferLoad(y, at) + tirx.BufferLoad(a, at) * tirx.BufferLoad(b, at)
    body = stmt.BufferStore(y, value, at)
    if lanes > 1:
        body = stmt.For(lane, 0, lanes, stmt.ForKind.VECTORIZED, body)
    return tirx.PrimFunc([a, b, y], stmt.For(i, 0, VECTORS, stmt.ForKind.SERIAL, body))


def assembly(described: dict[str, object], lanes: int) -> str:
    target = tvm.target.Target(described)
    lower = tvm.ir.transform.Sequential(
        [tirx.transform.FlattenBuffer(), tirx.transform.VectorizeLoop(True), tirx.transform.StmtSimplify()]
    )
    function = lower(tvm.IRModule({"f": multiply_add(lanes)}))["f"]
    pointers = [
        tirx.Var(f"{b.name}_pointer", tvm.ir.PointerType(tvm.ir.PrimType("float32"), "global")) for b in function.params
    ]
    declared = [stmt.DeclBuffer(b, data=p) for b, p in zip(function.params, pointers, strict=True)]
    body = stmt.SeqStmt([*declared, function.body, stmt.Return(tirx.const(0, "int32"))])
    plain = tirx.PrimFunc(pointers, body, ret_type=tvm.ir.PrimType("int32"))
    plain = plain.with_attr("global_symbol", "f").with_attr("target", target).with_attr("calling_conv", 0)
    plain = plain.with_attr("tirx.noalias", True)
    finish = tvm.ir.transform.Sequential([tirx.transform.LowerTVMBuiltin(), tirx.transform.LowerIntrin()])
    built = tvm.get_global_func("target.build.llvm")(finish(tvm.IRModule({"f": plain})), target)
    return str(built.inspect_source("asm"))


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    print(json.dumps({name: assembly(described, lanes) for name, (described, lanes) in wanted.items()}))
