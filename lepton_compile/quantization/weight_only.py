"""Weights in 16, 8 or 4 bits under operators that go on computing in float32.

Libraries are smaller, and what waits for memory is faster.

    y = matmul(x, W)   ->   y = matmul(x, dequantize(Q))

In 16 and 8 bits, integers have a scale for each output (each row of a table that is gathered from), in 4 bits for each
block of the axis that products are summed over. Numbers of 4 bits stand in bytes, which lowering packs: what counts is
their range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.quantization.rounding import followed
from lepton_compile.quantization.weights import Array, largest, rounded, scales_of, spread, weight_scales
from lepton_compile.rewriting.biases import RECURRENT
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, scopes

BLOCK = 32
"""Numbers of 4 bits that share a scale."""

_NO_ROUNDING: Mapping[str, str] = MappingProxyType({})
_WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "Gather": (0,), "Gemm": (1,), "MatMul": (1,)} | dict.fromkeys(
    RECURRENT, (1, 2)
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
                bits = (16, 8, 4) if node.op in ("MatMul", "Gemm") else (16, 8)
                yield Candidate(node.name, sum(each.size for each in known), bits)


@dataclass(frozen=True)
class Integers:
    """Weights as integers: inputs and attributes of a DequantizeLinear."""

    values: Array
    scales: npt.NDArray[np.float32]
    attributes: Mapping[str, int]

    @property
    def steps(self) -> npt.NDArray[np.float32]:
        """The scale of each number."""
        axis, block = self.attributes["axis"], self.attributes.get("block_size")
        if block is None:
            return np.broadcast_to(spread(self.scales, axis, self.values.ndim), self.values.shape)
        return np.take(self.scales, np.arange(self.values.shape[axis]) // block, axis=axis)


def make_weight_only(graph: Graph, bits: Mapping[str, int], *, rounding: Mapping[str, str] = _NO_ROUNDING) -> None:
    """Let nodes read their weights from integers.

    Args:
        graph: Changed in place.
        bits: By names of nodes, of `candidates`, in how many bits.
        rounding: How weights of nodes are rounded if not to the nearest integers, as `rounding.told` says it; where a
            node has several, with spaces between, and nothing for the nearest integers.

    Raises:
        ValueError: A node is no candidate, or not in so many bits, or a rounding is not of its weights.
    """
    allowed = {each.node: each.bits for each in candidates(graph)} if bits else {}
    for name, wanted in bits.items():
        if wanted not in allowed.get(name, ()):
            raise ValueError(f"the weights of '{name}' cannot be in {wanted} bits")
    uses = Uses(graph)
    chosen = [node for scope in scopes(graph) for node in scope.nodes if node.name in bits]
    for node in chosen:
        places = _WEIGHTS[node.op]
        texts = rounding.get(node.name, " " * (len(places) - 1)).split(" ")
        if len(texts) != len(places):
            raise ValueError(f"the rounding of '{node.name}' is of {len(texts)} weights; it has {len(places)}")
        for place, text in zip(places, texts, strict=True):
            weights = constant(node.inputs[place])
            assert weights is not None
            made = as_integers(node, weights, bits[node.name])
            if text:
                made = replace(made, values=followed(made.values, text))
            _dequantize(node, place, made, uses)


def weights_lost(graph: Graph, name: str, bits: int) -> float:
    """What rounding takes from the weights of a node, as squares over squares."""
    (node,) = (node for scope in scopes(graph) for node in scope.nodes if node.name == name)
    lost = total = 0.0
    for place in _WEIGHTS[node.op]:
        weights = constant(node.inputs[place])
        assert weights is not None
        made = as_integers(node, weights, bits)
        lost += float(((weights - made.values * made.steps) ** 2).sum())
        total += float((weights**2).sum())
    return lost / (total or 1.0)


def _can_be_integers(node: gs.Node, weights: Array) -> bool:
    if weights.dtype != np.float32 or not weights.size or not np.isfinite(weights).all():
        return False
    if node.op == "Gather":
        return weights.ndim > 1
    return node.op != "MatMul" or weights.ndim == 2


def as_integers(node: gs.Node, weights: Array, bits: int) -> Integers:
    """Weights of a node as the nearest integers, in as many bits as `candidates` says that they can be."""
    return _in_blocks(node, weights) if bits == 4 else _by_outputs(node, weights, bits)


def _by_outputs(node: gs.Node, weights: Array, bits: int) -> Integers:
    if node.op in RECURRENT:
        # A block of all inputs is a scale for each row of each direction.
        rows = weights.reshape(-1, weights.shape[2])
        scales = weight_scales(rows, 0, bits)
        values = rounded(rows, scales, 0, bits).reshape(weights.shape)
        attributes = {"axis": 2, "block_size": weights.shape[2]}
        return Integers(values, scales.reshape(*weights.shape[:2], 1), attributes)
    axis = _output_axis(node, weights.ndim)
    scales = weight_scales(weights, axis, bits)
    return Integers(rounded(weights, scales, axis, bits), scales, {"axis": axis})


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


def _in_blocks(node: gs.Node, weights: Array) -> Integers:
    """The weights of a product in 4 bits, in blocks of the axis that is summed over."""
    axis = 1 - _output_axis(node, 2)
    by_inner = weights if axis == 0 else weights.T
    inner, columns = by_inner.shape
    padded = np.pad(by_inner, [(0, -inner % BLOCK), (0, 0)]).reshape(-1, BLOCK, columns)
    most = largest(4)
    scales = scales_of(np.abs(padded).max(axis=1), 4)
    values = np.clip(np.rint(padded / scales[:, None]), -most, most).astype(np.int8).reshape(-1, columns)[:inner]

    def as_stored(numbers: Array) -> Array:
        return np.ascontiguousarray(numbers if axis == 0 else numbers.T)

    return Integers(as_stored(values), as_stored(scales), {"axis": axis, "block_size": BLOCK})


def _dequantize(node: gs.Node, place: int, made: Integers, uses: Uses) -> None:
    known = node.inputs[place]

    def parameter(kind: str, values: Array) -> gs.Constant:
        return gs.Constant(uses.fresh_name(f"{known.name}_{kind}"), values)

    inputs = [parameter("quantized", made.values), parameter("scale", made.scales)]
    restored = gs.Variable(uses.fresh_name(f"{known.name}_dequantized"), np.dtype(np.float32), made.values.shape)
    name = uses.fresh_name(f"{node.name}_dequantize")
    uses.insert_before(node, gs.Node("DequantizeLinear", name, dict(made.attributes), inputs, [restored]))
    node.inputs[place] = restored
