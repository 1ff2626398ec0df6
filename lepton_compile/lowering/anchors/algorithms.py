"""The ways to compute a convolution, what each is predicted to cost, and the kernels of the one that is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from tvm import te

from lepton_compile.kernels import convolution_plan as direct
from lepton_compile.kernels import winograd
from lepton_compile.kernels import winograd_plan as filtering
from lepton_compile.kernels.convolution import convolution
from lepton_compile.kernels.convolution_plan import Convolution
from lepton_compile.kernels.kernel import Epilogue, Machine, Source
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.window import ConvolutionShape
from lepton_compile.kernels.winograd_plan import Winograd
from lepton_compile.lowering.anchors.channel_order import channels_of
from lepton_compile.lowering.anchors.space_to_depth import spread, spread_cycles, spread_shape
from lepton_compile.lowering.builder import Builder
from lepton_compile.lowering.choosing import Algorithm, Problem
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.program import Buffer, Choice
from lepton_compile.lowering.region import Scope

# The largest relative error that it may add.
LARGEST_ERROR = 1e-5
# Register tiles of the direct convolution that are looked at.
DIRECT_TILES = 2


@dataclass(frozen=True)
class ConvolutionProblem:
    """A convolution to be computed.

    Attributes:
        shape: Its shape.
        few_channels: Whether the input lies in memory plainly, as a vector of its channels would be mostly padding.
    """

    shape: ConvolutionShape
    few_channels: bool

    @property
    def filtered(self) -> ConvolutionShape:
        """The convolution that minimal filtering computes."""
        return spread_shape(self.shape) if self.few_channels else self.shape

    def __str__(self) -> str:
        shape = self.shape
        windows = " ".join(
            f"{w.input}->{w.positions}k{w.kernel}s{w.stride}d{w.dilation}p{w.pad}" for w in shape.windows
        )
        channels = f"{shape.groups}x{shape.inputs}->{shape.outputs}"
        return f"convolution {shape.batch} of {channels} {windows}{' plain' if self.few_channels else ''}"


def direct_algorithms(problem: ConvolutionProblem, machine: Machine, *, exactly: bool) -> list[Algorithm]:
    """Direct convolutions, the most promising first; where `exactly` those that sum up the products alone."""
    shape = problem.shape
    tiles = 1 if machine.small else DIRECT_TILES
    ways = [1] if exactly else direct.ways_abreast(shape, machine)
    plans = [
        plan
        for abreast in ways
        for plan in islice(direct.convolutions_of(shape, machine, dense=machine.small, abreast=abreast), tiles)
    ]
    found = [Algorithm(str(plan), direct.cycles(plan, machine), False, plan) for plan in plans]
    return sorted(found, key=lambda algorithm: algorithm.cycles)


def filtering_algorithms(problem: ConvolutionProblem, machine: Machine) -> list[Algorithm]:
    """Minimal filtering, the most promising first; none where it does not apply."""
    over = problem.filtered
    gathering = spread_cycles(over, machine) if problem.few_channels else 0.0
    plans = filtering.plans(over, machine)
    found = [Algorithm(str(plan), filtering.cycles(plan, machine) + gathering, True, plan) for plan in plans]
    return sorted(found, key=lambda algorithm: algorithm.cycles)


def emit(
    scope: Scope,
    problem: ConvolutionProblem,
    x: te.Tensor,
    weights: Array,
    epilogue: Epilogue,
    sources: Sequence[Buffer],
    result: Buffer,
) -> None:
    """Add the kernels of a convolution of known weights.

    Args:
        scope: The region.
        problem: The convolution.
        x: The input, (batch, channels, spatial...).
        weights: (outputs * groups, inputs, taps...); signed integers where weights are to be small.
        epilogue: What is stored.
        sources: Where its operands are.
        result: Where the result goes.
    """
    builder, machine = scope.builder, scope.builder.machine
    taps = _taps(problem, weights)
    errors: dict[object, float] = {}
    passed_over = []
    precise = []
    # What was measured holds for the algorithms that there were to choose from, and for these vectors: a library may
    # hold the same net for several instruction sets.
    directly_only = builder.exact_order or builder.small
    key = f"{problem} in {machine.registers} vectors of {machine.lanes}{' in exact order' if directly_only else ''}"
    for algorithm in [] if directly_only else filtering_algorithms(problem, machine):
        assert isinstance(algorithm.plan, Winograd)
        filters = algorithm.plan.filters
        if filters not in errors:
            errors[filters] = filtering.expected_error(taps, algorithm.plan)
        if errors[filters] <= LARGEST_ERROR:
            precise.append(algorithm)
        else:
            passed_over.append(f"{algorithm.name}: its error would be {errors[filters]:.1e}")
            key += f", not {algorithm.name}"
    if not precise and not passed_over:
        passed_over.append(f"winograd: {_why_directly(builder)}")
    directly = direct_algorithms(problem, machine, exactly=directly_only)
    taken = builder.choose(Problem(key, (*directly, *precise), problem))
    others = [each for each in (*directly[:1], *precise[:1]) if each is not taken]
    passed_over += [f"{each.name}: {each.cycles / taken.cycles:.2f} times the predicted cycles" for each in others]
    nbytes = emit_algorithm(scope, problem, taken.plan, x, weights, epilogue, sources, result)
    error = errors[taken.plan.filters] if isinstance(taken.plan, Winograd) else None
    builder.choices.append(Choice(scope.nodes, taken.name, tuple(passed_over), nbytes, weights.nbytes, error))


def emit_algorithm(
    scope: Scope,
    problem: ConvolutionProblem,
    plan: object,
    x: te.Tensor,
    weights: Array,
    epilogue: Epilogue,
    sources: Sequence[Buffer],
    result: Buffer,
) -> int:
    """Add the kernels of one algorithm; the size of its weights in bytes."""
    builder, machine = scope.builder, scope.builder.machine
    if isinstance(plan, Convolution):
        channels = channels_of(scope, x, problem.few_channels)
        packed = builder.weight(direct.pack_weights(weights, plan, machine))
        definition = convolution(plan, channels.source, epilogue, machine, channels.order, packed.dtype)
        source, *order = channels.buffers
        builder.call(definition, [source, packed, *order, *sources], [result], scope.nodes)
        return packed.nbytes()
    assert isinstance(plan, Winograd)
    packed = builder.weight(filtering.pack_weights(_taps(problem, weights), plan, machine))
    spread_out = spread(scope, x, problem.shape) if problem.few_channels else x
    source = scope.in_layout(spread_out, builder.blocked)
    image = Source(spread_out, source.layout)
    if plan.staged:
        transformed = builder.buffer(filtering.transformed_shape(plan, machine), "float32")
        builder.call(winograd.input_transform(plan, image, machine), [source], [transformed], scope.nodes)
        source, image = transformed, Source(scope.tensor_of(transformed), PLAIN)
    definition = winograd.convolution(plan, image, epilogue, machine)
    builder.call(definition, [source, packed, *sources], [result], scope.nodes)
    return packed.nbytes()


def _why_directly(builder: Builder) -> str:
    if builder.exact_order:
        return "exact order of sums"
    return "small weights" if builder.small else "not for these strides, dilations, taps or groups"


def _taps(problem: ConvolutionProblem, weights: Array) -> Array:
    """The weights of the convolution that minimal filtering computes."""
    if not problem.few_channels:
        return weights
    return filtering.split_phases(weights, [window.stride for window in problem.shape.windows])
