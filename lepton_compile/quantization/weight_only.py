"""Weights in 8 or 4 bits under operators that go on computing in float32.

Libraries are smaller, and what waits for memory is faster.

    y = matmul(x, W)   ->   y = matmul(x, dequantize(Q))

In 8 bits, integers are symmetric around 0, with a scale for each output (each row of a table that is gathered from). In
4 bits, each block of the axis that products are summed over has a scale, and, unless they are symmetric, a zero point.
They stand in bytes, which lowering packs: what counts is their range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.quantization.weights import Array, rounded, spread, weight_scales
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, scopes

BLOCK = 32
"""Numbers of 4 bits that share a scale."""

_LARGEST = 7
_RECURRENT = ("GRU", "LSTM", "RNN")
_WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "Gather": (0,), "Gemm": (1,), "MatMul": (1,)} | dict.fromkeys(
    _RECURRENT, (1, 2)
)


@dataclass(frozen=True)
class Candidate:
    """A node whose weights could be integers.

    Attributes:
        node: Its name.
        numbers: How many weights it has.
        bits: In how many bits they can be, the most first.
    """

    node: str
    numbers: int
    bits: tuple[int, ...]


def candidates(graph: Graph) -> Iterator[Candidate]:
    """The nodes whose weights could be integers, in all scopes."""
    for scope in scopes(graph):
        for node in scope.nodes:
            places = _WEIGHTS.get(node.op, ()) if is_operator(node, *_WEIGHTS) else ()
            weights = [constant(node.inputs[place]) for place in places]
            known = [each for each in weights if each is not None and _can_be_integers(node, each)]
            if known and len(known) == len(weights):
                bits = (8, 4) if node.op in ("MatMul", "Gemm") else (8,)
                yield Candidate(node.name, sum(each.size for each in known), bits)


def make_weight_only(graph: Graph, bits: Mapping[str, int], *, symmetric: bool = True) -> None:
    """Let nodes read their weights from integers.

    Args:
        graph: Changed in place.
        bits: By names of nodes, of `candidates`, in how many bits.
        symmetric: Whether numbers of 4 bits are symmetric around 0, without zero points.

    Raises:
        ValueError: A node is no candidate, or not in so many bits.
    """
    allowed = {each.node: each.bits for each in candidates(graph)}
    for name, wanted in bits.items():
        if wanted not in allowed.get(name, ()):
            raise ValueError(f"the weights of '{name}' cannot be in {wanted} bits")
    uses = Uses(graph)
    chosen = [node for scope in scopes(graph) for node in scope.nodes if node.name in bits]
    for node in chosen:
        for place in _WEIGHTS[node.op]:
            weights = constant(node.inputs[place])
            assert weights is not None
            made = _in_bytes(node, weights) if bits[node.name] == 8 else _in_blocks(node, weights, symmetric)
            _dequantize(node, place, made, uses)


def approximated(node: gs.Node, weights: Array, bits: int) -> Array:
    """What a Conv, Gemm or MatMul is multiplied by when its weights are in so many bits, symmetric around 0."""
    made = _in_bytes(node, weights) if bits == 8 else _in_blocks(node, weights, symmetric=True)
    axis, block = made.attributes["axis"], made.attributes.get("block_size")
    if block is None:
        return made.values * spread(made.scales, axis, weights.ndim)
    return made.values * np.repeat(made.scales, block, axis).take(range(weights.shape[axis]), axis)


@dataclass(frozen=True)
class _Integers:
    """Inputs and attributes of a DequantizeLinear."""

    values: Array
    scales: npt.NDArray[np.float32]
    zeros: Array | None
    attributes: Mapping[str, int]


def _can_be_integers(node: gs.Node, weights: Array) -> bool:
    if weights.dtype != np.float32 or not weights.size or not np.isfinite(weights).all():
        return False
    if node.op == "Gather":
        return weights.ndim > 1
    return node.op != "MatMul" or weights.ndim == 2


def _in_bytes(node: gs.Node, weights: Array) -> _Integers:
    if node.op in _RECURRENT:
        # A block of all inputs is a scale for each row of each direction.
        rows = weights.reshape(-1, weights.shape[2])
        scales = weight_scales(rows, 0)
        values = rounded(rows, scales, 0).reshape(weights.shape)
        attributes = {"axis": 2, "block_size": weights.shape[2]}
        return _Integers(values, scales.reshape(*weights.shape[:2], 1), None, attributes)
    axis = _output_axis(node, weights.ndim)
    scales = weight_scales(weights, axis)
    return _Integers(rounded(weights, scales, axis), scales, None, {"axis": axis})


def _output_axis(node: gs.Node, rank: int) -> int:
    match node.op:
        case "Conv":
            return 0
        case "Gather":
            return int(node.attrs.get("axis", 0)) % rank
        case "Gemm":
            return 0 if int(node.attrs.get("transB", 0)) else 1
        case _:
            return 1


def _in_blocks(node: gs.Node, weights: Array, symmetric: bool) -> _Integers:
    axis = 1 - _output_axis(node, 2)
    by_inner = weights if axis == 0 else weights.T
    inner, columns = by_inner.shape
    padded = np.pad(by_inner, [(0, -inner % BLOCK), (0, 0)]).reshape(-1, BLOCK, columns)
    zeros = None
    if symmetric:
        peaks = np.abs(padded).max(axis=1)
        scales = np.where(peaks > 0, peaks / np.float32(_LARGEST), 1).astype(np.float32)
        values = np.clip(np.rint(padded / scales[:, None]), -_LARGEST, _LARGEST).astype(np.int8)
    else:
        low, high = np.minimum(padded.min(axis=1), 0), np.maximum(padded.max(axis=1), 0)
        scales = np.where(high > low, (high - low) / np.float32(2 * _LARGEST + 1), 1).astype(np.float32)
        zeros = np.rint(-low / scales).astype(np.uint8)
        steps = np.rint(padded / scales[:, None]) + zeros[:, None]
        values = np.clip(steps, 0, 2 * _LARGEST + 1).astype(np.uint8)

    def as_stored(numbers: Array) -> Array:
        return np.ascontiguousarray(numbers if axis == 0 else numbers.T)

    return _Integers(
        as_stored(values.reshape(-1, columns)[:inner]),
        as_stored(scales),
        None if zeros is None else as_stored(zeros),
        {"axis": axis, "block_size": BLOCK},
    )


def _dequantize(node: gs.Node, place: int, made: _Integers, uses: Uses) -> None:
    known = node.inputs[place]

    def parameter(kind: str, values: Array) -> gs.Constant:
        return gs.Constant(uses.fresh_name(f"{known.name}_{kind}"), values)

    inputs = [parameter("quantized", made.values), parameter("scale", made.scales)]
    if made.zeros is not None:
        inputs.append(parameter("zero_point", made.zeros))
    restored = gs.Variable(uses.fresh_name(f"{known.name}_dequantized"), np.dtype(np.float32), made.values.shape)
    name = uses.fresh_name(f"{node.name}_dequantize")
    uses.insert_before(node, gs.Node("DequantizeLinear", name, dict(made.attributes), inputs, [restored]))
    node.inputs[place] = restored
