"""Conv by minimal filtering (Winograd): whether, how, and its kernels."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from tvm import te, tirx

from lepton_compile.kernels import winograd
from lepton_compile.kernels.convolution import Convolution
from lepton_compile.kernels.convolution import cycles as convolution_cycles
from lepton_compile.kernels.convolution import packed_shape as direct_weights
from lepton_compile.kernels.elementwise import elementwise, split_index
from lepton_compile.kernels.kernel import Epilogue, Machine, Source
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.window import Window
from lepton_compile.kernels.winograd_plan import (
    ConvolutionShape,
    Winograd,
    cycles,
    expected_error,
    pack_weights,
    plans,
    split_phases,
    transformed_shape,
)
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.program import Buffer, Choice
from lepton_compile.lowering.region import Scope

# Cycles of gathering one element of an image of few channels.
GATHER_CYCLES = 1.0
# It has to be this much faster than the direct convolution to be worth its larger weights.
WORTH = 0.85
# The largest relative error that it may add.
LARGEST_ERROR = 1e-5


def emit(
    scope: Scope,
    shape: ConvolutionShape,
    direct: Convolution,
    x: te.Tensor,
    weights: Array,
    few_channels: bool,
    epilogue: Epilogue,
    sources: Sequence[Buffer],
    result: Buffer,
) -> bool:
    """Add the kernels of a convolution by minimal filtering, if that is faster and precise.

    Args:
        scope: The region.
        shape: The convolution.
        direct: How it would be computed otherwise.
        x: The input, (batch, channels, spatial...).
        weights: (outputs, inputs, taps...).
        few_channels: Whether a vector of the input's channels would be mostly padding.
        epilogue: What is stored.
        sources: Where its operands are.
        result: Where the result goes.

    Returns:
        Whether it did. The choice is recorded either way.
    """
    machine = scope.builder.machine
    over = spread_shape(shape) if few_channels else shape
    candidates = [] if scope.builder.exact_order else list(plans(over, machine))
    plan = min(candidates, key=lambda each: cycles(each, machine), default=None)
    record = functools.partial(Choice, scope.nodes, plain_weights_bytes=weights.nbytes)
    packed_bytes = 4 * math.prod(direct_weights(direct, machine))
    if plan is None:
        reason = "exact order of sums" if scope.builder.exact_order else "no such strides, dilations, taps or groups"
        scope.builder.choices.append(record(str(direct), (f"winograd: {reason}",), packed_bytes))
        return False
    needed = cycles(plan, machine) + (spread_cycles(over, machine) if few_channels else 0)
    ratio = needed / convolution_cycles(direct, machine)
    taps = split_phases(weights, [window.stride for window in shape.windows]) if few_channels else weights
    error = expected_error(taps, plan)
    if ratio > WORTH or error > LARGEST_ERROR:
        reason = f"{ratio:.2f} of the direct one's cycles, error {error:.1e}"
        scope.builder.choices.append(record(str(direct), (f"{plan}: {reason}",), packed_bytes))
        return False
    image = spread(scope, x, shape) if few_channels else x
    nbytes = _emit(scope, plan, image, taps, epilogue, sources, result)
    scope.builder.choices.append(record(str(plan), (f"{direct}: {1 / ratio:.2f} of the cycles",), nbytes, error=error))
    return True


def _emit(
    scope: Scope,
    plan: Winograd,
    x: te.Tensor,
    weights: Array,
    epilogue: Epilogue,
    sources: Sequence[Buffer],
    result: Buffer,
) -> int:
    """Add the kernels of a plan; the size of its weights."""
    builder, machine = scope.builder, scope.builder.machine
    source = scope.in_layout(x, builder.blocked)
    image = Source(x, source.layout)
    packed = builder.weight(pack_weights(weights, plan, machine))
    if plan.staged:
        transformed = builder.buffer(transformed_shape(plan, machine), "float32")
        builder.call(winograd.input_transform(plan, image, machine), [source], [transformed], scope.nodes)
        source, image = transformed, Source(scope.tensor_of(transformed), PLAIN)
    definition = winograd.convolution(plan, image, epilogue, machine)
    builder.call(definition, [source, packed, *sources], [result], scope.nodes)
    return packed.nbytes()


def spread_shape(shape: ConvolutionShape) -> ConvolutionShape:
    """The convolution over what `spread` makes: stride one, nothing in front of the input or behind it."""
    windows = [
        Window(w.positions + -(-w.kernel // w.stride) - 1, w.positions, -(-w.kernel // w.stride)) for w in shape.windows
    ]
    phases = math.prod(window.stride for window in shape.windows)
    return ConvolutionShape(shape.batch, phases * shape.inputs, shape.outputs, 1, tuple(windows))


def spread_cycles(shape: ConvolutionShape, machine: Machine) -> float:
    """Predicted cycles of `spread`, given the shape that it makes."""
    blocks = -(-shape.inputs // machine.lanes)
    return GATHER_CYCLES * shape.batch * blocks * machine.lanes * math.prod(window.input for window in shape.windows)


def spread(scope: Scope, x: te.Tensor, shape: ConvolutionShape) -> te.Tensor:
    """An image of few channels, padded, with its residues by the strides as channels, so that these fill a vector.

    Element (n, phase * channels + c, i...) is x(n, c, i * stride + phase - pad...).
    """
    strides = [window.stride for window in shape.windows]
    made = spread_shape(shape)
    extents = [shape.batch, made.inputs, *(window.input for window in made.windows)]

    def element(n: tirx.Expr, channel: tirx.Expr, *position: tirx.Expr) -> tirx.Expr:
        *phase, c = split_index(channel, [*strides, shape.inputs])
        at = [i * w.stride + (p - w.pad) for i, w, p in zip(position, shape.windows, phase, strict=True)]
        bounds = zip(at, shape.windows, strict=True)
        inside = tirx.all(*(tirx.all(i >= 0, i < window.input) for i, window in bounds))
        return tirx.if_then_else(inside, x(n, c, *at), tirx.const(0, "float32"))

    builder = scope.builder
    source = scope.to_memory(x)
    tensor = te.compute(extents, element, name="spread")
    stored = builder.buffer(extents, "float32", builder.blocked)
    definition = elementwise(tensor, builder.blocked, [Source(x, source.layout)], builder.machine)
    builder.call(definition, [source], [stored], scope.nodes)
    return scope.tensor_of(stored)
