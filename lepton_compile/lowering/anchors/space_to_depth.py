"""Images of few channels: their residues by a convolution's strides become channels, so that these fill vectors."""

from __future__ import annotations

import math

from tvm import te, tirx

from lepton_compile.kernels.elementwise import elementwise, split_index
from lepton_compile.kernels.kernel import Machine, Source
from lepton_compile.kernels.window import ConvolutionShape, Window
from lepton_compile.lowering.region import Scope

# Cycles of gathering one element of an image of few channels.
GATHER_CYCLES = 1.0


def spread_shape(shape: ConvolutionShape) -> ConvolutionShape:
    """The convolution over what `spread` makes: stride one, nothing in front of the input or behind it."""
    taps = [-(-w.kernel // w.stride) for w in shape.windows]
    # A dilation is handed on, for whoever does not take it to see.
    windows = [
        Window(w.positions + count - 1, w.positions, count, dilation=w.dilation)
        for w, count in zip(shape.windows, taps, strict=True)
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
        return tirx.if_then_else(inside, stored_image(n, c, *at), tirx.const(0, "float32"))

    builder = scope.builder
    source = scope.to_memory(x)
    stored_image = scope.tensor_of(source)
    tensor = te.compute(extents, element, name="spread")
    stored = builder.buffer(extents, "float32", builder.blocked)
    definition = elementwise(tensor, builder.blocked, [Source(stored_image, source.layout)], builder.machine)
    builder.call(definition, [source], [stored], scope.nodes)
    return scope.tensor_of(stored)
