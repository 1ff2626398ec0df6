"""A kernel's TVM function becomes an object file with one ordinary C function.

    int32_t NAME(const T *in0, ..., T *out0, ..., int32_t dim0, ..., int32_t begin, int32_t end);

TVM's own calling convention (packed arguments, 10-16 KB of checks per kernel, its runtime's allocator and thread pool)
is left out: buffers become pointers, and the outermost parallel loop becomes a serial one from `begin` to `end`, so
that the driver decides who runs which part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import tvm
from tvm import tirx
from tvm.tirx import stmt

from lepton_compile.kernels.loops import DEFINITIONS, ROLLED

LOCAL_BYTES = 1 << 20
"""The most that a kernel's local buffers may take: half of the stack that the runtime's threads have."""

_TRANSFORM = tirx.transform

_BARRIER = "lepton_keep_rolled"
# LLVM does not unroll a loop that calls what it does not know; it takes this for a call, and it is no instruction.
_BARRIER_DEFINITION = f"""
define i32 @{_BARRIER}() alwaysinline nounwind {{
  call void asm sideeffect "", ""() nounwind memory(inaccessiblemem: readwrite)
  ret i32 0
}}
"""

# LowerTVMBuiltin is left out on purpose: it would turn local buffers past 1024 bytes into heap allocations through
# TVM's runtime. Without it every local buffer is a stack slot, which LLVM keeps in registers where it can. Flattening
# comes first, which makes one address of indices that were split from one: simplified on their own, their remainders
# stay. Simplifying drops the bounds checks of tiles that divide; after vectorising, the index arithmetic of every lane.
_LOWER = tvm.ir.transform.Sequential(
    [
        _TRANSFORM.FlattenBuffer(),
        _TRANSFORM.StmtSimplify(),
        _TRANSFORM.BF16ComputeLegalize(),
        _TRANSFORM.NarrowDataType(32),
        _TRANSFORM.VectorizeLoop(True),
        _TRANSFORM.UnrollLoop(),
        _TRANSFORM.StmtSimplify(),
        _TRANSFORM.RemoveNoOp(),
        _TRANSFORM.BF16StorageLegalize(),
        _TRANSFORM.LowerIntrin(),
    ]
)


def plain_function(
    function: tirx.PrimFunc,
    symbol: str,
    target: tvm.target.Target,
    *,
    dimensions: Sequence[str] = (),
    noalias: bool = True,
    small: bool = False,
) -> tirx.PrimFunc:
    """The same computation over raw pointers and a range of its parallel loop.

    Args:
        function: Parameters are buffers; one outermost loop is parallel.
        symbol: Name of the C function.
        target: What the function is compiled for.
        dimensions: Names of symbolic dimensions, each an argument; variables of these names in the buffers' shapes are
            bound to them.
        noalias: Promise LLVM that no two pointers overlap. False where an output may share memory with an input.
        small: Keep loops from being unrolled.

    Raises:
        ValueError: When there is not exactly one parallel loop to split.
    """
    pointers = [
        tirx.Var(f"{buffer.name}_ptr", tvm.ir.PointerType(tvm.ir.PrimType(str(buffer.dtype)), "global"))
        for buffer in function.params
    ]
    found = {size.name: size for buffer in function.params for size in buffer.shape if isinstance(size, tirx.Var)}
    symbols = [found[name] if name in found else tirx.Var(name, "int32") for name in dimensions]
    begin, end = tirx.Var("begin", "int32"), tirx.Var("end", "int32")
    body, loops = _over_range(function.body, begin, end)
    body = _hide_extents(body, tirx.bitwise_and(tirx.shift_right(begin, 31), 255))
    definitions = [str(function.attrs[DEFINITIONS])] if function.attrs and DEFINITIONS in function.attrs else []
    if small:
        body, definitions = _with_barriers(body), [*definitions, _BARRIER_DEFINITION]
    for definition in definitions:
        body = stmt.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", tvm.ir.StringImm(definition), body)
    if loops != 1:
        raise ValueError(f"{symbol} has {loops} outermost parallel loops; a kernel has one")
    declared: list[tirx.Stmt] = [
        stmt.DeclBuffer(buffer, data=pointer) for buffer, pointer in zip(function.params, pointers, strict=True)
    ]
    arguments = pointers
    if not noalias:
        # TVM tells LLVM (by TBAA) that buffers are apart even so, except where their pointers are bound anew.
        arguments = [tirx.Var(f"{pointer.name}_argument", pointer.ty) for pointer in pointers]
        declared = [*map(stmt.Bind, pointers, arguments), *declared]
    plain = tirx.PrimFunc(
        [*arguments, *symbols, begin, end],
        stmt.SeqStmt([*declared, body, stmt.Return(tirx.const(0, "int32"))]),
        ret_type=tvm.ir.PrimType("int32"),
    )
    plain = plain.with_attr("global_symbol", symbol).with_attr("target", target).with_attr("calling_conv", 0)
    return plain.with_attr("tirx.noalias", True) if noalias else plain


def _over_range(statement: tirx.Stmt, begin: tirx.Var, end: tirx.Var) -> tuple[tirx.Stmt, int]:
    """The statement with its outermost parallel loops run from begin to end, and how many there were."""
    if isinstance(statement, stmt.SeqStmt):
        parts = [_over_range(part, begin, end) for part in statement.seq]
        return stmt.SeqStmt([part for part, _ in parts]), sum(count for _, count in parts)
    if isinstance(statement, stmt.For) and statement.kind == stmt.ForKind.PARALLEL:
        return stmt.For(statement.loop_var, begin, end - begin, stmt.ForKind.SERIAL, statement.body), 1
    return statement, 0


def _hide_extents(statement: tirx.Stmt, nothing: tirx.Expr) -> tirx.Stmt:
    """The statement with `nothing`, a zero that LLVM takes for 0 or 255, added to the extents of loops to keep rolled.

    LLVM's options against unrolling have no effect through TVM, and its loop metadata cannot be reached. A known bound
    that is low would do as little as a known extent.
    """
    if isinstance(statement, stmt.SeqStmt):
        return stmt.SeqStmt([_hide_extents(part, nothing) for part in statement.seq])
    if isinstance(statement, stmt.IfThenElse):
        other = statement.else_case
        return stmt.IfThenElse(
            statement.condition,
            _hide_extents(statement.then_case, nothing),
            None if other is None else _hide_extents(other, nothing),
        )
    if isinstance(statement, stmt.For) and statement.kind == stmt.ForKind.SERIAL:
        hidden = statement.extent + nothing if ROLLED in statement.annotations else statement.extent
        body = _hide_extents(statement.body, nothing)
        return stmt.For(statement.loop_var, statement.min, hidden, statement.kind, body)
    return statement


def _with_barriers(statement: tirx.Stmt) -> tirx.Stmt:
    """The statement with a barrier against unrolling in every serial loop."""
    if isinstance(statement, stmt.SeqStmt):
        return stmt.SeqStmt([_with_barriers(part) for part in statement.seq])
    if isinstance(statement, stmt.IfThenElse):
        other = None if statement.else_case is None else _with_barriers(statement.else_case)
        return stmt.IfThenElse(statement.condition, _with_barriers(statement.then_case), other)
    if isinstance(statement, stmt.For) and statement.kind == stmt.ForKind.SERIAL:
        barrier = stmt.Evaluate(tirx.call_extern("int32", _BARRIER))
        body = stmt.SeqStmt([_with_barriers(statement.body), barrier])
        return stmt.For(statement.loop_var, statement.min, statement.extent, statement.kind, body)
    return statement


def _local_bytes(statement: tirx.Stmt) -> int:
    """Size of all local buffers of a lowered function, each of which is a slot of its own on the stack."""
    if isinstance(statement, stmt.AllocBuffer):
        if not all(isinstance(size, tirx.IntImm) for size in statement.buffer.shape):
            raise ValueError(f"the size of its local buffer {statement.buffer.name} is not constant")
        sizes = (int(size) for size in statement.buffer.shape)
        return math.prod(sizes) * int(statement.buffer.dtype.itemsize)
    if isinstance(statement, stmt.SeqStmt):
        return sum(map(_local_bytes, statement.seq))
    if isinstance(statement, stmt.IfThenElse):
        other = 0 if statement.else_case is None else _local_bytes(statement.else_case)
        return _local_bytes(statement.then_case) + other
    body = getattr(statement, "body", None)
    return 0 if body is None else _local_bytes(body)


def build_object(
    function: tirx.PrimFunc,
    symbol: str,
    target: Mapping[str, object],
    path: Path,
    *,
    dimensions: Sequence[str] = (),
    noalias: bool = True,
    small: bool = False,
) -> None:
    """Compile one kernel to an object file at `path`.

    Bad IR or a target without the features that the function uses can abort the process, inside TVM or LLVM: so this
    runs in a worker (`lepton_compile.codegen.worker`).

    Args:
        function: As in `plain_function`.
        symbol: Name of the C function.
        target: What `tvm.target.Target` takes.
        path: Where the object file goes.
        dimensions: As in `plain_function`.
        noalias: As in `plain_function`.
        small: Whether its code is to be small, at the price of speed.

    Raises:
        ValueError: When there is not exactly one parallel loop, or the local buffers take more than `LOCAL_BYTES`.
    """
    machine = tvm.target.Target(dict(target))
    with machine:
        plain = plain_function(function, symbol, machine, dimensions=dimensions, noalias=noalias, small=small)
        module = _LOWER(tvm.IRModule({symbol: plain}))
        size = _local_bytes(module[symbol].body)
        if size > LOCAL_BYTES:
            raise ValueError(f"its local buffers take {size} bytes of stack, and {LOCAL_BYTES} are allowed")
        built = tvm.get_global_func("target.build.llvm")(module, machine)
    built.write_to_file(str(path))
