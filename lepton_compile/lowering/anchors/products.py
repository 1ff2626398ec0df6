"""MatMul and Gemm."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels import dot_matmul
from lepton_compile.kernels import matmul as mm
from lepton_compile.kernels.dot_product import PAIRS
from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.lowering.anchors.bfloat16 import narrow_operands
from lepton_compile.lowering.anchors.quantized_product import quantized_product
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.anchors.weight_only_product import weight_only_product
from lepton_compile.lowering.linear import linear_of
from lepton_compile.lowering.operators import Operation, operator
from lepton_compile.lowering.operators.pointwise import arithmetic_type, broadcast_load, cast, convert, dtype_of, load
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Scope, as_rank


@anchor("MatMul")
def matrix_product(scope: Scope, operation: Operation, a: te.Tensor, b: te.Tensor) -> Lowered:
    """MatMul of at least two axes on either side."""
    if str(a.dtype) != "float32" or len(a.shape) < 2 or len(b.shape) < 2:
        return None
    summed = quantized_product(scope, a, b)
    if summed is None:
        summed = weight_only_product(scope, a, b)
    return product(scope, a, b) if summed is None else summed


@anchor("Gemm")
def general_product(
    scope: Scope, operation: Operation, a: te.Tensor, b: te.Tensor, c: te.Tensor | None = None
) -> Lowered:
    """Gemm: alpha * A' B' + beta * C."""
    if str(a.dtype) != "float32":
        return None
    alpha, beta = float(operation.attribute("alpha", 1.0)), float(operation.attribute("beta", 1.0))
    transposed_a, transposed_b = bool(operation.attribute("transA", 0)), bool(operation.attribute("transB", 0))
    multiplied = None if transposed_a else quantized_product(scope, a, b, transposed=transposed_b)
    if multiplied is None:
        multiplied = weight_only_product(scope, a, b, transposed_left=transposed_a, transposed_right=transposed_b)
    if multiplied is None and transposed_b:
        known = scope.literal_or_known(b)
        original = b
        b = (
            scope.constant(known.T)
            if known is not None
            else te.compute((b.shape[1], b.shape[0]), lambda k, n: original(n, k), name="transposed")
        )
    if multiplied is None:
        multiplied = product(scope, a, b, transposed=transposed_a)
    scaled = multiplied
    if alpha != 1.0:
        scaled = te.compute(multiplied.shape, lambda *i: multiplied(*i) * alpha, name="scaled")
    if c is None:
        return scaled
    known_c = scope.known(c)
    added = scope.constant(as_rank(known_c, 2)) if known_c is not None else c
    sizes = shape_of(added)

    def addend(*i: tirx.Expr) -> tirx.Expr:
        at = [0 if size == 1 else index for size, index in zip(sizes, i[2 - len(sizes) :], strict=True)]
        value = added(*at)
        return value if beta == 1.0 else value * beta

    made = te.compute(scaled.shape, lambda *i: scaled(*i) + addend(*i), name="gemm")
    form, known_c = linear_of(scope, multiplied), scope.literal_or_known(added)
    if form is not None and known_c is not None:
        scope.note(made, form.scaled(alpha).shifted(beta * known_c.astype(np.float64)))
    return made


def product(scope: Scope, a: te.Tensor, b: te.Tensor, *, transposed: bool = False) -> te.Tensor:
    """The product of two float32 matrices, or batches of them; `transposed`: of the left one's transpose.

    Where both are widened bfloat16 ones, and the processor multiplies these, their bits are what kernels read.
    """
    left, right = list(shape_of(a)), list(shape_of(b))
    if transposed:
        left = [left[1], left[0]]
    inner, columns = right[-2:]
    batch = list(np.broadcast_shapes(tuple(left[:-2]), tuple(right[:-2])))
    shape = [*batch, left[-2], columns]
    narrow = None if transposed else narrow_operands(scope, a, b)
    first, second, known = narrow or (a, b, scope.literal_or_known(b))
    # Without batch axes of its own on the right, all rows of the left operand form one matrix.
    flat = math.prod(right[:-2]) == 1 and len(left) >= len(right)

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        builder, machine = scope.builder, scope.builder.machine
        origin = scope.origin(first)
        layout = scope.in_layout(origin, PLAIN)
        rows = left[:-1] if flat else left[-2:-1]
        shapes = mm.matrix_product_of([] if flat else batch, rows, inner, columns, machine)
        right_batch = [] if flat else right[:-2]
        if known is not None:
            values = known.reshape(right[-2:]) if flat else known
            packed = dot_matmul.pack_right(PAIRS, values, shapes, machine) if narrow else None
            weights = builder.weight(mm.pack_right(values, shapes, machine) if packed is None else packed)
        else:
            matrix = second
            if flat and len(right) > 2:
                outer = [0] * (len(right) - 2)
                matrix = te.compute(tuple(right[-2:]), lambda k, n: second(*outer, k, n), name="matrix")
            pack = functools.partial(dot_matmul.packed_right, PAIRS) if narrow else mm.packed_right
            weights = scope.to_memory(pack(matrix, shapes, machine))
        source = Source(origin, layout.layout)
        if narrow:
            definition = dot_matmul.dot_matmul(PAIRS, shapes, first, source, right_batch, epilogue, machine)
        else:
            definition = mm.matmul(shapes, first, source, transposed, right_batch, epilogue, machine)
        builder.call(definition, [layout, weights, *sources], [result], scope.nodes)

    return scope.open(shape, "float32", Anchor(PLAIN, emit))


@operator("MatMul")
def plain_matrix_product(operation: Operation, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """MatMul of other types than float32, and of vectors."""
    dtype = dtype_of(a)
    wide = arithmetic_type(dtype)
    return convert(_dot(a, b, lambda x, *at: cast(load(x, *at), wide)), dtype)


@operator("Gemm")
def plain_general_product(operation: Operation, a: te.Tensor, b: te.Tensor, c: te.Tensor | None = None) -> te.Tensor:
    """Gemm of other types than float32; alpha and beta are floats whatever the type."""
    dtype = dtype_of(a)
    wide = arithmetic_type(dtype)
    alpha, beta = float(operation.attribute("alpha", 1.0)), float(operation.attribute("beta", 1.0))
    left = _transposed(a) if operation.attribute("transA", 0) else a
    right = _transposed(b) if operation.attribute("transB", 0) else b
    total = _dot(left, right, lambda x, *at: cast(load(x, *at), wide))

    def element(*i: tirx.Expr) -> tirx.Expr:
        value = load(total, *i) if alpha == 1.0 else load(total, *i) * tirx.const(alpha, wide)
        if c is None:
            return value
        added = cast(broadcast_load(c, i), wide)
        return value + (added if beta == 1.0 else added * tirx.const(beta, wide))

    return convert(te.compute(total.shape, element, name="gemm"), dtype)


@operator("MatMulInteger")
def integer_matrix_product(
    operation: Operation,
    a: te.Tensor,
    b: te.Tensor,
    a_zero: te.Tensor | None = None,
    b_zero: te.Tensor | None = None,
) -> te.Tensor:
    """MatMulInteger: a zero point is one number, or one per row of A or column of B."""

    def element(x: te.Tensor, *at: tirx.Expr) -> tirx.Expr:
        value = load(x, *at).astype("int32")
        zero, axis = (a_zero, -2) if x is a else (b_zero, -1)
        if zero is None:
            return value
        place = [] if not zero.shape else [at[axis] if int(zero.shape[0]) > 1 else 0]
        return value - load(zero, *place).astype("int32")

    return _dot(a, b, element)


def _transposed(x: te.Tensor) -> te.Tensor:
    return te.compute((x.shape[1], x.shape[0]), lambda i, j: load(x, j, i), name="transposed")


def _dot(a: te.Tensor, b: te.Tensor, element: Callable[..., tirx.Expr]) -> te.Tensor:
    """The product of matrices, batches of them, or vectors, of `element(tensor, *indices)` of their elements."""
    left, right = shape_of(a), shape_of(b)
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    shape = [*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ())]
    k = te.reduce_axis((0, left[-1]), name="k")

    def batch_of(sizes: Sequence[int], i: Sequence[tirx.Expr]) -> list[tirx.Expr | int]:
        taken = i[len(batch) - len(sizes) : len(batch)]
        return [0 if size == 1 else index for size, index in zip(sizes, taken, strict=True)]

    def value(*i: tirx.Expr) -> tirx.Expr:
        row = [i[len(batch)]] if len(left) > 1 else []
        column = [i[-1]] if len(right) > 1 else []
        inner = [k.var, *column]
        product = element(a, *batch_of(left[:-2], i), *row, k.var) * element(b, *batch_of(right[:-2], i), *inner)
        return te.sum(product, axis=k)

    return te.compute(shape, value, name="product")
