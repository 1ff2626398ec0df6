"""From TE tensors to the scalar expression that a loop body stores.

An operator says what it computes as a TE tensor; a kernel family decides the loops. In between, `evaluate` gives a
tensor's value at given indices: computations without a reduction are inlined, everything else is loaded through a
function of the kernel's. The same operator functions thus serve element-wise kernels, the epilogue of a convolution,
and the packing of a matrix.

Inlining makes expressions that share subexpressions (x * sigmoid(x) holds x twice, and a polynomial its argument at
every step). TVM's passes walk them as trees, so `share` moves what is used more than once into registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import te, tirx
from tvm_ffi.core import CObject

from lepton_compile.kernels.loops import allocate, load, register, sequence, store, vectorized

Load = Callable[[te.Tensor, list[tirx.Expr]], tirx.Expr]

_TENSOR_LOAD = "te.tensor_load"
_IF_THEN_ELSE = "prim.if_then_else"
_BINARY = (
    tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max,
    tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or,
    tirx.LShift, tirx.RShift, tirx.BitwiseAnd, tirx.BitwiseOr, tirx.BitwiseXor,
)  # fmt: skip
_UNARY = (tirx.Not, tirx.BitwiseNot)
_LEAVES = (tirx.Var, tirx.IntImm, tirx.FloatImm, tvm.ir.StringImm, te.Tensor)


def identity(node: tirx.Expr) -> int:
    """Which object an expression is.

    Its `hash` is that, but of an integer constant, whose hash is the value: 0 and False, and in Python even -1 and -2,
    have the same.
    """
    return int(CObject.__hash__(node))


def is_reduction(tensor: te.Tensor) -> bool:
    """Whether a tensor is the result of a reduction, and so cannot be inlined into its consumers."""
    return isinstance(tensor.op, te.ComputeOp) and isinstance(tensor.op.body[0], tirx.Reduce)


def is_inlined(tensor: te.Tensor) -> bool:
    """Whether a tensor's value is computed where it is used."""
    return isinstance(tensor.op, te.ComputeOp) and not is_reduction(tensor)


def leaves(tensor: te.Tensor) -> list[te.Tensor]:
    """The tensors that evaluating `tensor` loads: placeholders and reductions, each once, in the order they are met."""
    found: list[te.Tensor] = []
    seen: set[te.Operation] = set()  # tensors compare element by element, the operations behind them by identity

    def visit(current: te.Tensor) -> None:
        for source in current.op.input_tensors:
            if source.op in seen:
                continue
            seen.add(source.op)
            if is_inlined(source):
                visit(source)
            else:
                found.append(source)

    visit(tensor)
    return found


# Dispatch on the exact class: isinstance on TVM's classes goes through Python's abstract base classes, which shows.
_OPERANDS: dict[type, Callable[[Any], list[tirx.Expr]]] = {
    **dict.fromkeys(_BINARY, lambda node: [node.a, node.b]),
    **dict.fromkeys(_UNARY, lambda node: [node.a]),
    **dict.fromkeys(_LEAVES, lambda node: []),
    tvm.ir.Call: lambda node: list(node.args),
    tvm.ir.TensorLoad: lambda node: list(node.indices),
    tirx.Cast: lambda node: [node.value],
    tirx.Select: lambda node: [node.condition, node.true_value, node.false_value],
    tirx.Let: lambda node: [node.value, node.body],
}
_WITH_OPERANDS: dict[type, Callable[[Any, list[tirx.Expr]], tirx.Expr]] = {
    **dict.fromkeys((*_BINARY, *_UNARY), lambda node, new: type(node)(*new)),
    tvm.ir.Call: lambda node, new: tvm.ir.Call(
        node.op, new, attrs=node.attrs, ty_args=list(node.ty_args), ret_ty=node.ty
    ),
    tvm.ir.TensorLoad: lambda node, new: tirx.BufferLoad(node.source, new),
    tirx.Cast: lambda node, new: tirx.Cast(str(node.ty), new[0]),
    tirx.Select: lambda node, new: tirx.Select(*new),
    tirx.Let: lambda node, new: tirx.Let(node.var, *new),
}


def operands(node: tirx.Expr) -> list[tirx.Expr]:
    """The operands of an expression; none for constants and variables."""
    try:
        return _OPERANDS[type(node)](node)
    except KeyError:
        raise TypeError(f"{type(node).__name__} is not expected in an operator's expression") from None


def with_operands(node: tirx.Expr, new: list[tirx.Expr]) -> tirx.Expr:
    """The same expression over other operands."""
    return _WITH_OPERANDS[type(node)](node, new)


def _is_call(node: tirx.Expr, name: str) -> bool:
    return type(node) is tvm.ir.Call and getattr(node.op, "name", "") == name


def rewrite(node: tirx.Expr, replace: Callable[[tirx.Expr], tirx.Expr | None]) -> tirx.Expr:
    """Rebuild an expression bottom-up, keeping shared subexpressions shared; variables bound inside it become new ones.

    Args:
        node: The expression.
        replace: Called on every node before its operands are visited; a value other than None takes the node's place.
    """
    done: dict[int, tuple[tirx.Expr, tirx.Expr]] = {}  # the key's node is kept, so that its address is not used again

    def visit(current: tirx.Expr) -> tirx.Expr:
        key = identity(current)
        if key in done:
            return done[key][1]
        result: tirx.Expr | None
        if type(current) is tirx.Let:
            # One body may be inlined at several indices: each use gets a variable of its own.
            variable = tirx.Var(current.var.name, current.var.ty)
            value = visit(current.value)
            done[identity(current.var)] = (current.var, variable)
            result = tirx.Let(variable, value, visit(current.body))
        else:
            result = replace(current)
        if result is None:
            old = operands(current)
            new = [visit(operand) for operand in old]
            changed = any(identity(a) != identity(b) for a, b in zip(old, new, strict=True))
            result = with_operands(current, new) if changed else current
        done[key] = (current, result)
        return result

    return visit(node)


def evaluate(
    tensor: te.Tensor,
    indices: Sequence[tirx.Expr | int],
    load_leaf: Load,
    inlined: Callable[[te.Tensor], bool] = is_inlined,
) -> tirx.Expr:
    """The value of `tensor` at `indices`.

    Args:
        tensor: A placeholder, or a computation. Of a reduction, the caller evaluates the source instead: `reduction`.
        indices: One int32 expression per axis.
        load_leaf: Gives the value of a tensor that is not inlined at given indices.
        inlined: Which tensors are computed where they are used; none but those for which `is_inlined` holds.
    """
    memory: dict[tuple[object, ...], tuple[list[tirx.Expr], tirx.Expr]] = {}

    def value(current: te.Tensor, at: list[tirx.Expr]) -> tirx.Expr:
        if not inlined(current):
            return load_leaf(current, at)
        key = (current.op, *(identity(index) for index in at))
        if key not in memory:
            memory[key] = (at, substitute(current.op.body[0], current.op.axis, at))
        return memory[key][1]

    def substitute(body: tirx.Expr, axes: Sequence[tirx.IterVar], at: list[tirx.Expr]) -> tirx.Expr:
        bound = {identity(axis.var): index for axis, index in zip(axes, at, strict=True)}

        def replace(node: tirx.Expr) -> tirx.Expr | None:
            if type(node) is tirx.Var:
                return bound.get(identity(node), node)
            if _is_call(node, _TENSOR_LOAD):
                source, *source_indices = node.args
                return value(source, [rewrite(index, replace) for index in source_indices])
            return None

        return rewrite(body, replace)

    return value(tensor, [tirx.const(index, "int32") if isinstance(index, int) else index for index in indices])


class Reduction:
    """The parts of a reduction, with the axes of its result and of the reduction put at given indices."""

    def __init__(self, tensor: te.Tensor) -> None:
        reduce = tensor.op.body[0]
        if len(reduce.source) != 1:
            raise TypeError("an operator may reduce to one value at a time only")
        self.extents: list[tirx.Expr] = [axis.dom.extent for axis in reduce.axis]
        self.identity: tirx.Expr = reduce.combiner.identity_element[0]
        self._tensor = tensor
        self._reduce = reduce

    def combine(self, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        """The combination of two partial results."""
        combiner = self._reduce.combiner
        bound = {identity(combiner.lhs[0]): left, identity(combiner.rhs[0]): right}
        return rewrite(combiner.result[0], lambda node: bound.get(identity(node)) if type(node) is tirx.Var else None)

    def term(
        self,
        indices: Sequence[tirx.Expr],
        reduced: Sequence[tirx.Expr],
        load_leaf: Load,
        inlined: Callable[[te.Tensor], bool] = is_inlined,
    ) -> tirx.Expr:
        """The element that takes part in the reduction at these indices of the result and of the reduced axes."""
        axes = [*self._tensor.op.axis, *self._reduce.axis]
        at = dict(zip((identity(axis.var) for axis in axes), [*indices, *reduced], strict=True))

        def replace(node: tirx.Expr) -> tirx.Expr | None:
            if type(node) is tirx.Var:
                return at.get(identity(node), node)
            if _is_call(node, _TENSOR_LOAD):
                source, *source_indices = node.args
                return evaluate(source, [rewrite(index, replace) for index in source_indices], load_leaf, inlined)
            return None

        source = rewrite(self._reduce.source[0], replace)
        condition = rewrite(self._reduce.condition, replace)
        if isinstance(condition, tirx.IntImm):
            return source
        return tirx.Select(condition, source, self.identity)


def count_operations(node: tirx.Expr) -> int:
    """Arithmetic operations on floats in an expression, shared ones once: what an element costs."""
    seen: set[int] = set()
    total = 0

    def visit(current: tirx.Expr) -> None:
        nonlocal total
        if identity(current) in seen:
            return
        seen.add(identity(current))
        parts = operands(current)
        if parts and "float" in str(current.ty) and type(current) is not tvm.ir.TensorLoad:
            total += 1
        for part in parts:
            visit(part)

    visit(node)
    return total


def share(expression: tirx.Expr, lanes: int, lane: tirx.Expr) -> tuple[list[tirx.Buffer], list[tirx.Stmt], tirx.Expr]:
    """Move float subexpressions that are used more than once, and what a Let binds, into registers.

    Only what is evaluated in any case is moved: a load behind the guard of an if_then_else may be out of bounds outside
    it.

    Args:
        expression: The value of one lane.
        lanes: Length of the vector that the expression will be part of.
        lane: The position in it.

    Returns:
        The registers, the statements that fill them, in order, and what is left of the expression.
    """
    uses: dict[int, int] = {}
    kept: list[tirx.Expr] = []

    def count(node: tirx.Expr) -> None:
        uses[identity(node)] = uses.get(identity(node), 0) + 1
        if uses[identity(node)] > 1:
            return
        kept.append(node)
        for operand in operands(node)[:1] if _is_call(node, _IF_THEN_ELSE) else operands(node):
            count(operand)

    count(expression)
    registers: list[tirx.Buffer] = []
    statements: list[tirx.Stmt] = []
    done: dict[int, tirx.Expr] = {}

    def keep(value: tirx.Expr) -> tirx.Expr:
        buffer = register(f"shared{len(registers)}", lanes, str(value.ty))
        registers.append(buffer)
        statements.append(store(buffer, [lane], value))
        return load(buffer, [lane])

    def visit(node: tirx.Expr) -> tirx.Expr:
        key = identity(node)
        if key in done:
            return done[key]
        if type(node) is tirx.Let and key in uses:
            done[identity(node.var)] = keep(visit(node.value))
            kept.append(node.var)
            done[key] = visit(node.body)
            return done[key]
        old = operands(node)
        new = [visit(operand) for operand in old]
        changed = any(identity(a) != identity(b) for a, b in zip(old, new, strict=True))
        result = with_operands(node, new) if changed else node
        if old and uses.get(key, 0) > 1 and str(node.ty) == "float32":
            result = keep(result)
        done[key] = result
        kept.append(result)
        return result

    return registers, statements, visit(expression)


def vector_store(
    lanes: int, value: Callable[[tirx.Expr], tirx.Expr], put: Callable[[tirx.Expr, tirx.Expr], tirx.Stmt]
) -> tirx.Stmt:
    """Compute a vector and store it, shared subexpressions once.

    Args:
        lanes: Length of the vector; 1 gives scalar code.
        value: From the position in the vector to the lane's value.
        put: From the position and the value to the statement that stores it.
    """
    registers: list[tirx.Buffer] = []

    def body(lane: tirx.Expr) -> tirx.Stmt:
        found, statements, result = share(value(lane), lanes, lane)
        registers.extend(found)
        return sequence([*statements, put(lane, result)])

    loop = vectorized(lanes, body)
    return allocate(registers, [loop]) if registers else loop


def loads_of(node: tirx.Expr) -> list[tvm.ir.TensorLoad]:
    """Every buffer load in an expression, shared ones once."""
    seen: set[int] = set()
    found: list[tvm.ir.TensorLoad] = []

    def visit(current: tirx.Expr) -> None:
        if identity(current) in seen:
            return
        seen.add(identity(current))
        if type(current) is tvm.ir.TensorLoad:
            found.append(current)
        for part in operands(current):
            visit(part)

    visit(node)
    return found


def variables_outside_loads(node: tirx.Expr) -> set[int]:
    """The identities of the variables in an expression, but for those that loads take as indices."""
    found: set[int] = set()
    seen: set[int] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if identity(current) in seen or type(current) is tvm.ir.TensorLoad:
            continue
        seen.add(identity(current))
        if type(current) is tirx.Var:
            found.add(identity(current))
        pending.extend(operands(current))
    return found
