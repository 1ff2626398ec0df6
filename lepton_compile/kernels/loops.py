"""Loop nests as Python functions: the few constructors that every kernel family is written with.

A loop takes a function from its variable to its body, so that a nest reads from the outside in, as C does:

    parallel(rows, lambda i: serial(columns, lambda j: store(y, [i, j], load(x, [i, j]) * 2)))

Vectors are loops too: `vectorized(16, lambda lane: ...)` states a computation per lane, and TVM turns it into vector
instructions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

from tvm import tirx
from tvm.tirx import stmt

ROLLED = "lepton.rolled"
"""Annotation of a loop that `rolled` made."""

DEFINITIONS = "lepton.definitions"
"""Attribute of a function that calls functions of an LLVM module."""

_ZERO = "lepton_zero"
APART = f"""
define i32 @{_ZERO}() alwaysinline nounwind {{
  %zero = call i32 asm sideeffect "", "=r,0"(i32 0)
  ret i32 %zero
}}
"""
"""What functions with statements `apart` need among their definitions."""

Body = Callable[[tirx.Var], tirx.Stmt]


def _loop(extent: int | tirx.Expr, body: Body, kind: stmt.ForKind, name: str, begin: int | tirx.Expr) -> tirx.Stmt:
    variable = tirx.Var(name, "int32")
    return stmt.For(variable, begin, extent, kind, body(variable))


def serial(extent: int | tirx.Expr, body: Body, name: str = "i", begin: int | tirx.Expr = 0) -> tirx.Stmt:
    """An ordinary loop over [begin, begin + extent)."""
    if isinstance(extent, int) and extent == 1 and isinstance(begin, int):
        return body(tirx.const(begin, "int32"))
    return _loop(extent, body, stmt.ForKind.SERIAL, name, begin)


def rolled(extent: int | tirx.Expr, body: Body, name: str = "i") -> tirx.Stmt:
    """A loop that LLVM must not unroll: it would share the loads of a reduction's steps until registers run out.

    Code generation hides the extent of a loop that carries this mark.
    """
    if isinstance(extent, int) and extent == 1:
        return body(tirx.const(0, "int32"))
    variable = tirx.Var(name, "int32")
    return stmt.For(variable, 0, extent, stmt.ForKind.SERIAL, body(variable), annotations={ROLLED: True})


def apart(body: Body) -> tirx.Stmt:
    """Statements that share no loads with others: LLVM does not know that the variable, which indices add, is 0.

    Each such call gives another zero, so that steps of a reduction that read the same do not fill registers with it.
    """
    zero = tirx.Var("zero", "int32")
    return stmt.SeqStmt([stmt.Bind(zero, tirx.call_extern("int32", _ZERO)), body(zero)])


def parallel(extent: int | tirx.Expr, body: Body, name: str = "block") -> tirx.Stmt:
    """The outermost loop of a kernel, whose range the driver hands to threads."""
    return _loop(extent, body, stmt.ForKind.PARALLEL, name, 0)


def vectorized(lanes: int, body: Body) -> tirx.Stmt:
    """A loop that becomes vector instructions of this many lanes."""
    if lanes == 1:
        return body(tirx.const(0, "int32"))
    lane = _lane(lanes)
    return stmt.For(lane, 0, lanes, stmt.ForKind.VECTORIZED, body(lane))


@functools.cache
def _lane(lanes: int) -> tirx.Var:
    """One variable for all such loops: TVM's flattening looks at every variable it has met, at every access."""
    return tirx.Var("lane", "int32")


def nest(
    extents: Sequence[int | tirx.Expr], body: Callable[[list[tirx.Expr]], tirx.Stmt], name: str = "i"
) -> tirx.Stmt:
    """Serial loops over all of `extents`, the last innermost."""
    if not extents:
        return body([])
    head, *tail = extents
    return serial(head, lambda i: nest(tail, lambda rest: body([i, *rest]), name), name)


def sequence(statements: Iterable[tirx.Stmt]) -> tirx.Stmt:
    """One statement after the other; none: nothing is done."""
    listed = list(statements)
    if not listed:
        return stmt.Evaluate(tirx.const(0, "int32"))
    return listed[0] if len(listed) == 1 else stmt.SeqStmt(listed)


def when(condition: tirx.Expr, then: tirx.Stmt, otherwise: tirx.Stmt | None = None) -> tirx.Stmt:
    """A branch."""
    return stmt.IfThenElse(condition, then, otherwise)


def load(buffer: tirx.Buffer, indices: Sequence[int | tirx.Expr]) -> tirx.Expr:
    """An element of a buffer."""
    return tirx.BufferLoad(buffer, list(indices))


def store(buffer: tirx.Buffer, indices: Sequence[int | tirx.Expr], value: tirx.Expr) -> tirx.Stmt:
    """Write an element of a buffer."""
    return stmt.BufferStore(buffer, value, list(indices))


def parameter(name: str, shape: Sequence[int], dtype: str) -> tirx.Buffer:
    """A buffer that the caller owns. Aligned to its elements only: the caller's memory may lie anywhere."""
    return tirx.decl_buffer(list(shape) or [1], dtype, name=name, data_alignment=itemsize(dtype))


def register(name: str, lanes: int, dtype: str = "float32") -> tirx.Buffer:
    """A small buffer that LLVM keeps in a register.

    It has to be of scope "global" and at most 1024 bytes: anything else becomes a heap allocation on CPU targets.
    """
    return tirx.decl_buffer([lanes], dtype, name=name, scope="global")


def local(name: str, shape: Sequence[int], dtype: str = "float32") -> tirx.Buffer:
    """A buffer on the stack of whoever runs a range of the kernel, for what has to be in memory between two loops."""
    return tirx.decl_buffer(list(shape), dtype, name=name, scope="global")


def allocate(buffers: Iterable[tirx.Buffer], body: Iterable[tirx.Stmt]) -> tirx.Stmt:
    """Statements in the scope of local buffers."""
    return stmt.SeqStmt([*(stmt.AllocBuffer(buffer) for buffer in buffers), *body])


def function(parameters: Sequence[tirx.Buffer], body: tirx.Stmt, definitions: str = "") -> tirx.PrimFunc:
    """A kernel's function.

    Args:
        parameters: Its parameters, inputs first.
        body: Its outermost loop.
        definitions: Functions that it calls, as the text of an LLVM module; they are inlined.
    """
    made = tirx.PrimFunc(list(parameters), body)
    return made.with_attr(DEFINITIONS, definitions) if definitions else made


def itemsize(dtype: str) -> int:
    """Bytes of one element of a TVM type."""
    return 1 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit())) // 8
