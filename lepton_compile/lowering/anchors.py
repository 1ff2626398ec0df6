"""Operators with kernel families of their own: convolution, pooling, matrix products, concatenation.

Each function is given the scope, the operation and its input tensors, and returns its output tensors as operator
functions do; what it returns may be an anchor that is still open. None says that the family does not take this node,
and the operator's plain TE definition, if there is one, is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels import convolution as conv
from lepton_compile.kernels import matmul as mm
from lepton_compile.kernels.elementwise import Part, elementwise
from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.pooling import AVERAGE, DEPTHWISE, MAXIMUM, sliding_window
from lepton_compile.kernels.window import Window
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Scope, as_rank

Lowered: TypeAlias = te.Tensor | tuple[te.Tensor, ...] | None
AnchorFunction = Callable[..., Lowered]

ANCHORS: dict[str, AnchorFunction] = {}

# Inputs of fewer channels than this are read as they come: a block would be mostly padding.
FEW_CHANNELS = 8


def anchor(op_type: str) -> Callable[[AnchorFunction], AnchorFunction]:
    """Register a function as the lowering of an operator of ONNX's default domain."""

    def register(function: AnchorFunction) -> AnchorFunction:
        ANCHORS[op_type] = function
        return function

    return register


def pads_of(
    operation: Operation, inputs: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis, `auto_pad` resolved."""
    rank = len(inputs)
    automatic = operation.attribute("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        pads = list(operation.attribute("pads", [0] * (2 * rank)))
        return pads[:rank], pads[rank:]
    if automatic == "VALID":
        return [0] * rank, [0] * rank
    total = [
        max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        for size, k, stride, dilation in zip(inputs, kernel, strides, dilations, strict=True)
    ]
    small = [amount // 2 for amount in total]
    large = [amount - amount // 2 for amount in total]
    return (small, large) if automatic == "SAME_UPPER" else (large, small)


def with_bias(scope: Scope, value: te.Tensor, bias: te.Tensor | None) -> te.Tensor:
    """Add one number per channel (axis 1)."""
    if bias is None:
        return value
    rank = len(value.shape)
    known = scope.known(bias)
    if known is not None:
        spread = scope.constant(known.reshape((1, -1) + (1,) * (rank - 2)))
        at: Callable[..., tuple[tirx.Expr | int, ...]] = lambda *i: (0, i[1], *[0] * (rank - 2))  # noqa: E731
        return te.compute(value.shape, lambda *i: value(*i) + spread(*at(*i)), name="biased")
    return te.compute(value.shape, lambda *i: value(*i) + bias(i[1] if len(bias.shape) else ()), name="biased")


@anchor("Conv")
def convolution(
    scope: Scope, operation: Operation, x: te.Tensor, w: te.Tensor, bias: te.Tensor | None = None
) -> Lowered:
    """Conv: in a register tile, or, with one input and one output channel per group, channel by channel."""
    if str(x.dtype) != "float32":
        return None
    batch, channels, *spatial = shape_of(x)
    outputs, per_group, *kernel = shape_of(w)
    rank = len(spatial)
    groups = int(operation.attribute("group", 1))
    strides = list(operation.attribute("strides", [1] * rank))
    dilations = list(operation.attribute("dilations", [1] * rank))
    before, after = pads_of(operation, spatial, kernel, strides, dilations)
    windows = [
        Window(
            input=size,
            positions=(size + first + last - dilation * (k - 1) - 1) // stride + 1,
            kernel=k,
            stride=stride,
            dilation=dilation,
            pad=first,
        )
        for size, k, stride, dilation, first, last in zip(
            spatial, kernel, strides, dilations, before, after, strict=True
        )
    ]
    shape = [batch, outputs, *(window.positions for window in windows)]
    if any(size <= 0 for size in shape):
        raise operation.unsupported(f"its output would have the shape {shape}")
    depthwise = groups == channels == outputs and scope.literal_or_known(w) is not None and groups > 1

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        builder, machine = scope.builder, scope.builder.machine
        if depthwise:
            source = scope.in_layout(x, builder.blocked)
            definition = sliding_window(DEPTHWISE, windows, Source(x, source.layout), epilogue, machine)
            weights = builder.weight(pack_depthwise(scope.value(w), machine.lanes))
        else:
            few = channels < FEW_CHANNELS and scope.is_plain(x)
            source = scope.to_memory(x) if few else scope.in_layout(x, builder.blocked)
            shapes = conv.convolution_of(batch, per_group, outputs // groups, groups, windows, machine)
            definition = conv.convolution(shapes, Source(x, source.layout), epilogue, machine)
            weights = convolution_weights(scope, w, shapes)
        builder.call(definition, [source, weights, *sources], [result], scope.nodes)

    return with_bias(scope, scope.open(shape, "float32", Anchor(scope.builder.blocked, emit)), bias)


def convolution_weights(scope: Scope, w: te.Tensor, shapes: conv.Convolution) -> Buffer:
    """Pack weights at compile time if they are known, else by a kernel."""
    known = scope.literal_or_known(w)
    machine = scope.builder.machine
    if known is not None:
        return scope.builder.weight(conv.pack_weights(known, shapes, machine))
    scope.to_memory(w)
    return scope.to_memory(conv.packed_weights(w, shapes, machine))


def pack_depthwise(weights: Array, lanes: int) -> Array:
    """Weights of shape (channels, 1, taps...) as (channel blocks, taps..., lanes)."""
    channels, _, *kernel = weights.shape
    blocks = -(-channels // lanes)
    padded = np.zeros((blocks * lanes, *kernel), weights.dtype)
    padded[:channels] = weights[:, 0]
    return np.ascontiguousarray(np.moveaxis(padded.reshape(blocks, lanes, *kernel), 1, -1))


@anchor("ConvTranspose")
def transposed_convolution(
    scope: Scope, operation: Operation, x: te.Tensor, w: te.Tensor, bias: te.Tensor | None = None
) -> Lowered:
    """ConvTranspose: one convolution for each residue of the output position by the stride.

    Output position s * i + r gets input i + (r + pad - tap * dilation) / s through every tap for which that is an
    integer.
    """
    known = scope.literal_or_known(w)
    if str(x.dtype) != "float32" or known is None:
        return None
    batch, channels, *spatial = shape_of(x)
    _, per_group, *kernel = shape_of(w)
    rank = len(spatial)
    groups = int(operation.attribute("group", 1))
    strides = list(operation.attribute("strides", [1] * rank))
    dilations = list(operation.attribute("dilations", [1] * rank))
    extra = list(operation.attribute("output_padding", [0] * rank))
    full = [
        (size - 1) * stride + dilation * (k - 1) + 1 + more
        for size, stride, dilation, k, more in zip(spatial, strides, dilations, kernel, extra, strict=True)
    ]
    before, outputs = _transposed_pads(operation, spatial, strides, full)
    # As a convolution from channels to outputs: swap the two channel axes inside each group.
    weights = known.reshape(groups, channels // groups, per_group, *kernel).swapaxes(1, 2)
    weights = weights.reshape(groups * per_group, channels // groups, *kernel)
    shape = [batch, groups * per_group, *outputs]

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        builder, machine = scope.builder, scope.builder.machine
        source = scope.in_layout(x, builder.blocked)
        for residues in np.ndindex(*strides):
            axes = [
                _transposed_window(*facts)
                for facts in zip(spatial, outputs, kernel, strides, dilations, before, residues, strict=True)
            ]
            windows = [window for window, _ in axes]
            if any(window.positions <= 0 for window in windows):
                continue
            taken = weights
            for axis, (_, taps) in enumerate(axes):
                # A residue that no tap reaches gets nothing but the bias: one tap of zeros.
                seen = np.take(taken, taps or [0], axis=axis + 2)
                taken = seen if taps else np.zeros_like(seen)
            shapes = conv.convolution_of(batch, channels // groups, per_group, groups, windows, machine)
            definition = conv.convolution(shapes, Source(x, source.layout), epilogue, machine)
            packed = builder.weight(conv.pack_weights(taken, shapes, machine))
            builder.call(definition, [source, packed, *sources], [result], scope.nodes)

    return with_bias(scope, scope.open(shape, "float32", Anchor(scope.builder.blocked, emit)), bias)


def _transposed_pads(
    operation: Operation, spatial: Sequence[int], strides: Sequence[int], full: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding in front and the output's extent along each axis."""
    rank = len(spatial)
    automatic = operation.attribute("auto_pad", "NOTSET")
    wanted = operation.attribute("output_shape")
    if wanted is None and automatic in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * stride for size, stride in zip(spatial, strides, strict=True)]
    if wanted is None:
        pads = [0] * (2 * rank) if automatic == "VALID" else list(operation.attribute("pads", [0] * (2 * rank)))
        return pads[:rank], [size - a - b for size, a, b in zip(full, pads[:rank], pads[rank:], strict=True)]
    wanted = list(wanted)[-rank:]
    total = [max(0, size - want) for size, want in zip(full, wanted, strict=True)]
    lower = automatic == "SAME_LOWER" or (automatic != "SAME_UPPER" and wanted is not None)
    return [amount - amount // 2 if lower else amount // 2 for amount in total], wanted


def _transposed_window(
    size: int, output: int, kernel: int, stride: int, dilation: int, pad: int, residue: int
) -> tuple[Window, list[int]]:
    """The convolution along one axis for one residue, and which taps it has, in the order of the inputs they see."""
    seen = {
        (residue + pad - tap * dilation) // stride: tap
        for tap in range(kernel)
        if (residue + pad - tap * dilation) % stride == 0
    }
    offsets = sorted(seen)
    step = offsets[1] - offsets[0] if len(offsets) > 1 else 1
    window = Window(
        input=size,
        positions=-(-(output - residue) // stride),
        kernel=max(1, len(offsets)),
        dilation=step,
        pad=-offsets[0] if offsets else 0,
        step=stride,
        offset=residue,
    )
    return window, [seen[offset] for offset in offsets]


@anchor("MaxPool")
def max_pool(scope: Scope, operation: Operation, x: te.Tensor) -> Lowered:
    """MaxPool without indices."""
    return None if operation.outputs > 1 else _pool(scope, operation, x, average=False)


@anchor("AveragePool")
def average_pool(scope: Scope, operation: Operation, x: te.Tensor) -> Lowered:
    """AveragePool, with or without padding counted."""
    return _pool(scope, operation, x, average=True)


def _pool(scope: Scope, operation: Operation, x: te.Tensor, *, average: bool) -> Lowered:
    if str(x.dtype) != "float32":
        return None
    batch, channels, *spatial = shape_of(x)
    rank = len(spatial)
    kernel = list(operation.attribute("kernel_shape"))
    strides = list(operation.attribute("strides", [1] * rank))
    dilations = list(operation.attribute("dilations", [1] * rank))
    before, after = pads_of(operation, spatial, kernel, strides, dilations)
    ceil = bool(operation.attribute("ceil_mode", 0)) and operation.attribute("auto_pad", "NOTSET") in ("NOTSET", "")
    windows = []
    for size, k, stride, dilation, first, last in zip(spatial, kernel, strides, dilations, before, after, strict=True):
        room = size + first + last - dilation * (k - 1) - 1
        positions = (-(-room // stride) if ceil else room // stride) + 1
        if ceil and (positions - 1) * stride >= size + first:
            positions -= 1  # the last window has to start inside the input or the padding before it
        windows.append(Window(size, positions, k, stride, dilation, first))
    shape = [batch, channels, *(window.positions for window in windows)]
    if any(size <= 0 for size in shape):
        raise operation.unsupported(f"its output would have the shape {shape}")
    counted = None
    if average and operation.attribute("count_include_pad", 0):
        counted = [size + first + last for size, first, last in zip(spatial, before, after, strict=True)]

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        source = scope.in_layout(x, scope.builder.blocked)
        definition = sliding_window(
            AVERAGE if average else MAXIMUM,
            windows,
            Source(x, source.layout),
            epilogue,
            scope.builder.machine,
            counts_padding=counted,
        )
        scope.builder.call(definition, [source, *sources], [result], scope.nodes)

    return scope.open(shape, "float32", Anchor(scope.builder.blocked, emit))


@anchor("MatMul")
def matrix_product(scope: Scope, operation: Operation, a: te.Tensor, b: te.Tensor) -> Lowered:
    """MatMul of at least two axes on either side."""
    if str(a.dtype) != "float32" or len(a.shape) < 2 or len(b.shape) < 2:
        return None
    return product(scope, a, b)


@anchor("Gemm")
def general_product(
    scope: Scope, operation: Operation, a: te.Tensor, b: te.Tensor, c: te.Tensor | None = None
) -> Lowered:
    """Gemm: alpha * A' B' + beta * C."""
    if str(a.dtype) != "float32":
        return None
    alpha, beta = float(operation.attribute("alpha", 1.0)), float(operation.attribute("beta", 1.0))
    if operation.attribute("transB", 0):
        known = scope.literal_or_known(b)
        original = b
        b = (
            scope.constant(np.ascontiguousarray(known.T))
            if known is not None
            else te.compute((b.shape[1], b.shape[0]), lambda k, n: original(n, k), name="transposed")
        )
    multiplied = product(scope, a, b, transposed=bool(operation.attribute("transA", 0)))
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

    return te.compute(scaled.shape, lambda *i: scaled(*i) + addend(*i), name="gemm")


def product(scope: Scope, a: te.Tensor, b: te.Tensor, *, transposed: bool = False) -> te.Tensor:
    """The product of two float32 matrices, or batches of them; `transposed`: of the left one's transpose."""
    left, right = list(shape_of(a)), list(shape_of(b))
    if transposed:
        left = [left[1], left[0]]
    inner, columns = right[-2:]
    batch = list(np.broadcast_shapes(tuple(left[:-2]), tuple(right[:-2])))
    shape = [*batch, left[-2], columns]
    known = scope.literal_or_known(b)
    # Without batch axes of its own on the right, all rows of the left operand form one matrix.
    flat = math.prod(right[:-2]) == 1 and len(left) >= len(right)

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        builder, machine = scope.builder, scope.builder.machine
        source = scope.in_layout(a, PLAIN)
        rows = left[:-1] if flat else left[-2:-1]
        shapes = mm.matrix_product_of([] if flat else batch, rows, inner, columns, machine)
        right_batch = [] if flat else right[:-2]
        if known is not None:
            values = known.reshape(right[-2:]) if flat else known
            weights = builder.weight(mm.pack_right(values, shapes, machine))
        else:
            matrix = b
            if flat and len(right) > 2:
                matrix = te.compute(tuple(right[-2:]), lambda k, n: b(*[0] * (len(right) - 2), k, n), name="matrix")
            weights = scope.to_memory(mm.packed_right(matrix, shapes, machine))
        definition = mm.matmul(shapes, Source(a, source.layout), transposed, right_batch, epilogue, machine)
        builder.call(definition, [source, weights, *sources], [result], scope.nodes)

    return scope.open(shape, "float32", Anchor(PLAIN, emit))


@anchor("Concat")
def concatenation(scope: Scope, operation: Operation, *parts: te.Tensor) -> Lowered:
    """Concat: every operand is written to its place in the result."""
    shapes = [shape_of(part) for part in parts]
    rank = len(shapes[0])
    axis = int(operation.attribute("axis")) % rank
    shape = [*shapes[0][:axis], sum(each[axis] for each in shapes), *shapes[0][axis + 1 :]]
    builder = scope.builder
    blocked = rank >= 3 and any(scope.layout(part).block for part in parts)
    layout = builder.blocked if blocked else PLAIN

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        offset = 0
        for part, extents in zip(parts, shapes, strict=True):
            if extents[axis]:
                operands, buffers = scope.operands(part, layout)
                placed = Part(tuple(shape), axis, offset)
                definition = elementwise(scope.copy_of(part), layout, operands, builder.machine, placed)
                builder.call(definition, buffers, [result], scope.nodes)
            offset += extents[axis]

    return scope.open(shape, str(parts[0].dtype), Anchor(layout, emit, takes_epilogue=False))
